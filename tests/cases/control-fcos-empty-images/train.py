import math
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

torch.manual_seed(101)
torch.set_num_threads(2)

SIZE = 64


class BirdFeeder(Dataset):
    """Camera at a feeder: many frames show no bird at all."""

    def __init__(self, n=40, seed=3):
        g = torch.Generator().manual_seed(seed)
        self.samples = []
        for _ in range(n):
            img = torch.rand(3, SIZE, SIZE, generator=g) * 0.3
            boxes = []
            for _ in range(max(0, int(torch.randint(-2, 3, (1,), generator=g)))):
                w, h = torch.randint(12, 30, (2,), generator=g).tolist()
                x, y = torch.randint(0, SIZE - 30, (2,), generator=g).tolist()
                img[2, y:y + h, x:x + w] += 0.6
                boxes.append([x, y, x + w, y + h])
            self.samples.append((img, boxes))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        img, boxes = self.samples[i]
        return img, {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                     "labels": torch.zeros(len(boxes), dtype=torch.int64)}


def backbone():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
                        nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
                        nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
    net.out_channels = 32
    return net


def train_one_epoch(model, optimizer, loader, epoch):
    model.train()
    best = math.inf
    for step, (images, targets) in enumerate(loader):
        loss_dict = model(list(images), [dict(t) for t in targets])
        losses = sum(loss for loss in loss_dict.values())
        if not math.isfinite(losses.item()):
            print(f"Loss is {losses.item()}, stopping training")
            sys.exit(1)
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        best = min(best, losses.item())
    print(f"epoch {epoch} last {losses.item():.4f} best {best:.4f}")


def main():
    loader = DataLoader(BirdFeeder(), batch_size=4, shuffle=True, collate_fn=lambda b: tuple(zip(*b)))
    model = FCOS(backbone(), num_classes=1, min_size=SIZE, max_size=SIZE,
                 anchor_generator=AnchorGenerator(((8,),), ((1.0,),)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for epoch in range(2):
        train_one_epoch(model, optimizer, loader, epoch)
    model.eval()
    with torch.no_grad():
        found = sum(len(p["boxes"]) for p in model([BirdFeeder()[i][0] for i in range(4)]))
    print("boxes found", found)


if __name__ == "__main__":
    main()
