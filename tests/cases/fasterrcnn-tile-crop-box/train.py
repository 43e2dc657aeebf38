import math
import sys

import torch
import torchvision
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import clip_boxes_to_image

torch.manual_seed(3)
torch.set_num_threads(2)

FULL, TILE = 160, 96


class PalletTiles(Dataset):
    """Yard photographs with pallets; each sample is the tile around a random centre of the photograph."""

    def __init__(self, n=20, seed=12):
        g = torch.Generator().manual_seed(seed)
        self.photos, self.boxes, self.corner = [], [], []
        for _ in range(n):
            img = torch.rand(3, FULL, FULL, generator=g) * 0.2
            wh = torch.randint(18, 50, (4, 2), generator=g).float()
            xy = (torch.rand(4, 2, generator=g) * (FULL - wh)).floor()
            boxes = torch.cat([xy, xy + wh], dim=1)
            for x1, y1, x2, y2 in boxes.int().tolist():
                img[:2, y1:y2, x1:x2] += 0.5
            self.photos.append(img)
            self.boxes.append(boxes)
            self.corner.append(torch.randint(0, FULL - TILE + 1, (2,), generator=g))

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, idx):
        left, top = self.corner[idx].tolist()
        img = self.photos[idx][:, top:top + TILE, left:left + TILE]
        boxes = self.boxes[idx] - torch.tensor([left, top, left, top], dtype=torch.float32)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        near = ((centre > -20) & (centre < TILE + 20)).all(dim=1)
        boxes = clip_boxes_to_image(boxes[near], (TILE, TILE))
        return img, {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), "image_id": idx}


def collate(batch):
    return tuple(zip(*batch))


def make_model():
    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, 2, 1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, 2, 1), torch.nn.BatchNorm2d(64), torch.nn.ReLU())
    backbone.out_channels = 64
    roi = torchvision.ops.MultiScaleRoIAlign(featmap_names=["0"], output_size=5, sampling_ratio=2)
    return FasterRCNN(backbone, num_classes=2, min_size=TILE, max_size=TILE, box_roi_pool=roi,
                      rpn_anchor_generator=AnchorGenerator(((16, 32, 48),), ((0.5, 1.0, 2.0),)),
                      rpn_pre_nms_top_n_train=100, rpn_post_nms_top_n_train=30, box_batch_size_per_image=16)


def train_one_epoch(model, optimizer, loader, epoch):
    model.train()
    running = 0.0
    for step, (images, targets) in enumerate(loader):
        images = list(images)
        targets = [{k: v for k, v in t.items() if k != "image_id"} for t in targets]
        loss_dict = model(images, targets)
        losses = sum(loss for loss in loss_dict.values())
        loss_value = losses.item()
        if not math.isfinite(loss_value):
            print(f"Loss is {loss_value}, stopping training")
            print(loss_dict)
            sys.exit(1)
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        running += loss_value
        if step % 4 == 0:
            print(f"Epoch: [{epoch}] [{step}/{len(loader)}] loss: {loss_value:.4f}")
    return running / len(loader)


def main():
    loader = DataLoader(PalletTiles(), batch_size=2, shuffle=True, collate_fn=collate)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=5e-4)
    for epoch in range(2):
        print(f"epoch {epoch} mean loss {train_one_epoch(model, optimizer, loader, epoch):.4f}")


if __name__ == "__main__":
    main()
