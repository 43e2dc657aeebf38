"""Faster R-CNN on crops of a photograph, drawn anew each time.

The photograph of coins comes with scikit-image; a small backbone keeps it quick on a CPU.
"""

import numpy as np
import skimage.data
import torch
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from skimage.morphology import closing
from skimage.segmentation import clear_border
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image

CROP, REACH = 96, 20


class CoinCrops(Dataset):
    """Random crops of one photograph, with every coin whose centre is within reach of the crop."""

    def __init__(self, n_crops: int, seed: int) -> None:
        photo = skimage.data.coins()
        coins = clear_border(closing(photo > threshold_otsu(photo), np.ones((3, 3))))
        regions = [region.bbox for region in regionprops(label(coins)) if region.area >= 100]
        self.boxes = torch.tensor([(x1, y1, x2, y2) for y1, x1, y2, x2 in regions], dtype=torch.float32)
        self.photo = torch.from_numpy(photo).float() / 255
        rng = np.random.default_rng(seed)
        self.corners = rng.integers(0, np.array(photo.shape) - CROP, size=(n_crops, 2))

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int):
        top, left = self.corners[index].tolist()
        image = self.photo[top : top + CROP, left : left + CROP].expand(3, -1, -1)
        boxes = self.boxes - torch.tensor([left, top, left, top])
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        boxes = boxes[((centres > -REACH) & (centres < CROP + REACH)).all(dim=1)]
        boxes = clip_boxes_to_image(boxes, (CROP, CROP))
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
        return image, {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}


def make_model() -> FasterRCNN:
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = 64
    return FasterRCNN(
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


def collate(batch):
    images, targets = zip(*batch)
    return list(images), list(targets)


def main() -> None:
    torch.manual_seed(1)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    loader = DataLoader(CoinCrops(n_crops=60, seed=2), batch_size=4, shuffle=True, collate_fn=collate)
    model.train()
    for epoch in range(2):
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
