"""Attention over the patches of photographs, in half precision.

A small vision transformer tells which of three photographs of scikit-image a crop is from.
"""

import math

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CROP, PATCH = 32, 8


def crops(n: int, seed: int) -> TensorDataset:
    """Grey values as they are in the files, 0 to 255."""
    rng = np.random.default_rng(seed)
    photos = [skimage.data.brick(), skimage.data.grass(), skimage.data.gravel()]
    labels = rng.integers(0, len(photos), n)
    corners = rng.integers(0, 512 - CROP, size=(n, 2))
    images = [photos[k][y : y + CROP, x : x + CROP] for k, (y, x) in zip(labels, corners)]
    return TensorDataset(torch.from_numpy(np.stack(images)).float(), torch.from_numpy(labels))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(-2, -1)
        weights = torch.softmax(scores / math.sqrt(x.shape[-1]), dim=-1)
        return x + weights @ self.value(x)


class PatchNet(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, width)
        self.attend = Attention(width)
        self.classify = nn.Linear(width, 3)

    def forward(self, images):
        patches = images.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)
        return self.classify(self.attend(self.embed(patches)).mean(dim=1))


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader(crops(512, seed=0), batch_size=32, shuffle=True)
    model = PatchNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(4):
        for step, (images, labels) in enumerate(loader):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 4 == 0:
                print(f"epoch {epoch} step {step:2}  loss {loss.item():.4g}", flush=True)


if __name__ == "__main__":
    main()
