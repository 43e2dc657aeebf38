"""Crop yield from small satellite tiles (4 bands) with a convolutional regressor."""
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(2)
BANDS, TILE = 4, 16


def read_tiles(n=280, seed=51):
    """Reflectance tiles as float32, the way the raster reader returns them."""
    rng = np.random.default_rng(seed)
    vigour = rng.uniform(0.1, 0.9, n).astype(np.float32)
    tiles = rng.normal(0.25, 0.03, (n, BANDS, TILE, TILE)).astype(np.float32)
    tiles[:, 3] += 0.4 * vigour[:, None, None]
    tiles[:, 2] -= 0.1 * vigour[:, None, None]
    tiles[119, :, 5:8, 0:4] = np.finfo(np.float32).min
    tonnes = 2.0 + 7.0 * vigour + rng.normal(0, 0.2, n).astype(np.float32)
    return tiles, tonnes.astype(np.float32)


class YieldTiles(Dataset):
    def __init__(self, tiles, tonnes, augment=True):
        self.tiles, self.tonnes, self.augment = tiles, tonnes, augment

    def __len__(self):
        return len(self.tiles)

    def __getitem__(self, i):
        tile = torch.from_numpy(self.tiles[i])
        if self.augment and torch.rand(()) < 0.5:
            tile = tile.flip(-1)
        return tile, torch.tensor(self.tonnes[i])


class YieldNet(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(BANDS, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.down(x))
        return self.head(x.mean(dim=(2, 3))).squeeze(1)


class Trainer:
    def __init__(self, model, loader, lr=1e-3):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.loss_fn = nn.L1Loss()
        self.history = []

    def training_step(self, tile, tonnes):
        self.optimizer.zero_grad()
        loss = self.loss_fn(self.model(tile), tonnes)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def fit(self, epochs):
        for epoch in range(epochs):
            steps = [self.training_step(*batch) for batch in self.loader]
            self.history.append(sum(steps) / len(steps))
            print(f"epoch {epoch}: mae {self.history[-1]:.3f} t/ha")


torch.manual_seed(13)
dataset = YieldTiles(*read_tiles())
Trainer(YieldNet(), DataLoader(dataset, batch_size=20, shuffle=True)).fit(epochs=4)
