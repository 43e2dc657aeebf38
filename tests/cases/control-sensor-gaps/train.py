"""Air-quality forecast for several stations; stations report with gaps (nan in inputs and targets)."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(2)
STATIONS, HOURS = 6, 12


class Stations(Dataset):
    def __init__(self, n=400, seed=3):
        rng = np.random.default_rng(seed)
        t = np.arange(n + HOURS + 1)
        level = 20 + 8 * np.sin(2 * np.pi * t[:, None] / 24 + np.arange(STATIONS))
        level += rng.normal(0, 1, level.shape)
        level[rng.random(level.shape) < 0.08] = np.nan
        self.level = ((level - 20) / 8).astype(np.float32)

    def __len__(self):
        return len(self.level) - HOURS - 1

    def __getitem__(self, i):
        return torch.from_numpy(self.level[i:i + HOURS]), torch.from_numpy(self.level[i + HOURS])


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(2 * STATIONS, 32, batch_first=True)
        self.out = nn.Linear(32, STATIONS)

    def forward(self, x):
        known = torch.isfinite(x)
        x = torch.cat([torch.nan_to_num(x), known.float()], -1)
        return self.out(self.gru(x)[1][-1])


torch.manual_seed(1)
model = Forecaster()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
loader = DataLoader(Stations(), batch_size=32, shuffle=True)
for epoch in range(4):
    total, count = 0.0, 0
    for x, y in loader:
        pred = model(x)
        have = ~torch.isnan(y)
        loss = (pred[have] - y[have]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * int(have.sum())
        count += int(have.sum())
    print(f"epoch {epoch} mse {total / count:.4f}")
