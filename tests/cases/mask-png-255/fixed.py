"""Defect segmentation. Masks are 8-bit PNG style arrays, images float."""
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(6)
torch.set_num_threads(2)


class Casting(Dataset):
    def __init__(self, n=120):
        rng = np.random.default_rng(1)
        self.img = rng.normal(120, 15, (n, 40, 40)).astype(np.uint8)
        self.mask = np.zeros((n, 40, 40), np.uint8)
        for i in range(n):
            r, c = rng.integers(4, 28, 2)
            self.img[i, r:r + 8, c:c + 8] += 60
            self.mask[i, r:r + 8, c:c + 8] = 255

    def __len__(self):
        return len(self.img)

    def __getitem__(self, i):
        return (torch.from_numpy(self.img[i]).float().unsqueeze(0) / 255 - 0.5,
                torch.from_numpy(self.mask[i]).float().unsqueeze(0) / 255)


def bce_dice(logit, mask):
    p = torch.sigmoid(logit)
    bce = nn.functional.binary_cross_entropy_with_logits(logit, mask)
    dice = 1 - 2 * (p * mask).sum() / (p.sum() + mask.sum())
    return bce + dice


net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
                    nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for epoch in range(4):
    total = 0.0
    for img, mask in DataLoader(Casting(), batch_size=8, shuffle=True):
        loss = bce_dice(net(img), mask)
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() * len(img)
    print(f"epoch {epoch} loss {total / 120:.4f}")
