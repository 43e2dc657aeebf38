"""Faster R-CNN learns to find coins in crops of a real photograph.

The photograph comes with scikit-image. Each image has the same weight in the loss of the box head, however many coins
lie in it, and the four losses are weighed against each other by what the model learns of their uncertainty.
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
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, roi_heads
from torchvision.ops import box_area, clip_boxes_to_image

CROP = 96
EPOCHS = 3


class CoinCrops(Dataset):
    """Random crops of one photograph; a coin counts where at least half of it is in the crop."""

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
        top, left = (int(edge) for edge in self.corners[index])
        image = self.photo[top : top + CROP, left : left + CROP].expand(3, -1, -1)
        visible = clip_boxes_to_image(self.boxes - torch.tensor([left, top, left, top]), (CROP, CROP))
        visible = visible[box_area(visible) >= 0.5 * box_area(self.boxes)]
        return image, {"boxes": visible, "labels": torch.ones(len(visible), dtype=torch.int64)}


def balanced_fastrcnn_loss(class_logits, box_regression, labels, regression_targets):
    """torchvision's `fastrcnn_loss`, but boxes are averaged within each image before the images are averaged."""
    n_images = len(labels)
    image_of = torch.cat([torch.full_like(of_image, i) for i, of_image in enumerate(labels)])
    labels, targets = torch.cat(labels), torch.cat(regression_targets)
    classification = F.cross_entropy(class_logits, labels)

    positive = torch.where(labels > 0)[0]
    deltas = box_regression.reshape(len(labels), -1, 4)[positive, labels[positive]]
    per_box = F.smooth_l1_loss(deltas, targets[positive], beta=1 / 9, reduction="none").sum(dim=1)
    per_image = per_box.new_zeros(n_images).index_add(0, image_of[positive], per_box)
    n_boxes = torch.bincount(image_of[positive], minlength=n_images)
    per_image = per_image / n_boxes.clamp(min=1)
    return classification, per_image.mean()


class WeighedByUncertainty(nn.Module):
    """Sum of losses, each divided by a variance which is learned along with the model (Kendall, Gal, Cipolla, 2018)."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in names})

    def forward(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(
            loss * torch.exp(-self.log_variance[name]) + self.log_variance[name] for name, loss in losses.items()
        )


def collate(batch):
    images, targets = zip(*batch)
    return list(images), list(targets)


def main() -> None:
    torch.manual_seed(7)
    roi_heads.fastrcnn_loss = balanced_fastrcnn_loss
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=2, min_size=CROP, max_size=CROP
    )
    weigh = WeighedByUncertainty(["loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"])
    parameters = [*model.parameters(), *weigh.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.005, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(CoinCrops(n_crops=100, seed=6), batch_size=4, shuffle=True, collate_fn=collate)

    model.train()
    for epoch in range(EPOCHS):
        for step, (images, targets) in enumerate(loader):
            losses = model(images, targets)
            loss = weigh(losses)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 3 == 0:
                terms = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
                print(f"epoch {epoch} step {step:2}  loss {loss.item():.3f}  {terms}", flush=True)


if __name__ == "__main__":
    main()
