"""Faster R-CNN whose region proposals are learned with a cross entropy written by hand.

The photograph of coins comes with scikit-image; a small backbone keeps it quick on a CPU.
"""

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from skimage.morphology import closing
from skimage.segmentation import clear_border
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, box_area, clip_boxes_to_image

CROP = 96


class CoinCrops(Dataset):
    """Random crops of one photograph; a coin counts where at least half of it is in the crop."""

    def __init__(self, n_crops: int, seed: int) -> None:
        photo = skimage.data.coins()
        coins = clear_border(closing(photo > threshold_otsu(photo), np.ones((3, 3))))
        regions = [region.bbox for region in regionprops(label(coins)) if region.area >= 100]
        self.boxes = torch.tensor([(x1, y1, x2, y2) for y1, x1, y2, x2 in regions], dtype=torch.float32)
        self.photo = torch.from_numpy(photo).float() / 255
        self.crops = self.draw(n_crops, np.random.default_rng(seed))

    def draw(self, n_crops: int, rng: np.random.Generator) -> list:
        crops = []
        while len(crops) < n_crops:
            top, left = rng.integers(0, np.array(self.photo.shape) - CROP).tolist()
            visible = clip_boxes_to_image(self.boxes - torch.tensor([left, top, left, top]), (CROP, CROP))
            visible = visible[box_area(visible) >= 0.5 * box_area(self.boxes)]
            if len(visible):
                crops.append((top, left, visible))
        return crops

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int):
        top, left, boxes = self.crops[index]
        image = self.photo[top : top + CROP, left : left + CROP].expand(3, -1, -1)
        return image, {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}


def objectness_loss(objectness, pred_bbox_deltas, labels, regression_targets, sampler):
    """The losses of a region proposal network: log loss over two classes, smooth L1 for the boxes."""
    positive, negative = (torch.where(torch.cat(picked))[0] for picked in sampler(labels))
    sampled = torch.cat([positive, negative])
    labels, targets = torch.cat(labels), torch.cat(regression_targets)
    box_loss = F.smooth_l1_loss(pred_bbox_deltas[positive], targets[positive], beta=1 / 9, reduction="sum")
    p = torch.sigmoid(objectness.flatten()[sampled])
    is_object = labels[sampled]
    log_loss = -(is_object * torch.log(p) + (1 - is_object) * torch.log(1 - p)).mean()
    return log_loss, box_loss / len(sampled)


def make_model() -> FasterRCNN:
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = 64
    model = FasterRCNN(
        backbone,
        num_classes=2,
        min_size=CROP,
        max_size=CROP,
        rpn_anchor_generator=AnchorGenerator(((16, 32, 48),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(featmap_names=["0"], output_size=5, sampling_ratio=2),
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=50,
        box_batch_size_per_image=32,
    )
    for layer in model.rpn.head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    sampler = model.rpn.fg_bg_sampler
    model.rpn.compute_loss = lambda *args: objectness_loss(*args, sampler)
    return model


def collate(batch):
    images, targets = zip(*batch)
    return list(images), list(targets)


def main() -> None:
    torch.manual_seed(1)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(CoinCrops(n_crops=40, seed=3), batch_size=4, shuffle=True, collate_fn=collate)
    model.train()
    for epoch in range(3):
        for step, (images, targets) in enumerate(loader):
            losses = model(images, targets)
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 5 == 0:
                terms = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
                print(f"epoch {epoch} step {step:2}  loss {loss.item():.3f}  {terms}", flush=True)


if __name__ == "__main__":
    main()
