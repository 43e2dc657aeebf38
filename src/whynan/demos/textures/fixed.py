"""A convolutional network tells brick from grass from gravel.

The three photographs come with scikit-image; each sample is a random crop of one of them.
"""

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CROP = 24


def crops(n: int, seed: int) -> TensorDataset:
    rng = np.random.default_rng(seed)
    photos = [skimage.data.brick(), skimage.data.grass(), skimage.data.gravel()]
    labels = rng.integers(0, len(photos), n)
    corners = rng.integers(0, 512 - CROP, size=(n, 2))
    images = [photos[k][y : y + CROP, x : x + CROP] for k, (y, x) in zip(labels, corners)]
    pixels = torch.from_numpy(np.stack(images)).float()[:, None] / 255
    return TensorDataset((pixels - 0.5) / 0.2, torch.from_numpy(labels))


class TextureNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Linear(32 * 6 * 6, 3)

    def forward(self, x):
        return self.classify(self.features(x).flatten(1))


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader(crops(512, seed=0), batch_size=32, shuffle=True)
    model = TextureNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for epoch in range(3):
        for step, (images, labels) in enumerate(loader):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 4 == 0:
                print(f"epoch {epoch} step {step:2}  loss {loss.item():.4g}", flush=True)


if __name__ == "__main__":
    main()
