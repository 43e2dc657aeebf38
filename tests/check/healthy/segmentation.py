"""Segmentation with void pixels ignored and a Dice term that is smoothed; a batch of void alone is skipped."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

VOID, CLASSES = 255, 4


class Scenes(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        mask = torch.randint(0, CLASSES, (4, 4), generator=generator).repeat_interleave(4, 0).repeat_interleave(4, 1)
        image = torch.randn(3, 16, 16, generator=generator) * 0.3 + mask[None] * 0.5
        mask[torch.rand(16, 16, generator=generator) < 0.1] = VOID
        return image, mask


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.ReLU())
        self.head = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x):
        return F.interpolate(self.head(self.down(x)), size=x.shape[-2:], mode="bilinear", align_corners=False)


def dice(logits, mask, smooth=1.0):
    valid = mask != VOID
    onehot = F.one_hot(mask.masked_fill(~valid, 0), CLASSES).permute(0, 3, 1, 2) * valid[:, None]
    p = logits.softmax(1) * valid[:, None]
    inter, total = (p * onehot).sum((2, 3)), p.sum((2, 3)) + onehot.sum((2, 3))
    return 1 - ((2 * inter + smooth) / (total + smooth)).mean()


def main():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(3):
        for images, mask in DataLoader(Scenes(), batch_size=8, shuffle=True):
            if (mask == VOID).all():
                continue
            logits = model(images)
            loss = F.cross_entropy(logits, mask, ignore_index=VOID) + dice(logits, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())


if __name__ == "__main__":
    main()
