"""Next-day electricity consumption from household features (smart-meter export)."""
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

torch.set_num_threads(2)


def load_households(n=900, seed=41):
    rng = np.random.default_rng(seed)
    rooms = rng.integers(1, 8, n)
    area = rooms * rng.normal(18, 3, n)
    temperature = rng.normal(9, 6, n)
    heat_pump = rng.random(n) < 0.3
    yesterday = 2.0 + 0.03 * area + 0.2 * np.maximum(15 - temperature, 0) * heat_pump + rng.gamma(2.0, 0.5, n)
    kwh = 0.9 * yesterday + 0.5 + rng.normal(0, 0.2, n)
    hours_online = np.full(n, 24.0)
    hours_online[[77, 302, 841]] = [12.0, 21.0, 18.0]
    reported = kwh * hours_online / 24.0
    reported[655], hours_online[655] = 0.0, 0.0
    with np.errstate(all="ignore"):
        per_day = reported / hours_online * 24.0
    x = np.stack([rooms / 8, area / 100, temperature / 10, heat_pump, yesterday / 10], 1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(per_day, dtype=torch.float32)


def cycle(loader):
    while True:
        yield from loader


x, y = load_households()
keep = torch.isfinite(y)
base = TensorDataset(x[keep], y[keep])
train_set, val_set = random_split(base, [720, int(keep.sum()) - 720], generator=torch.Generator().manual_seed(19))
torch.manual_seed(0)
train_it = cycle(DataLoader(train_set, batch_size=24, shuffle=True))
model = nn.Sequential(nn.Linear(5, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3)
criterion = nn.HuberLoss(delta=2.0)

step = 0
smooth = None
while step < 150:
    features, target = next(train_it)
    loss = criterion(model(features).squeeze(-1), target)
    opt.zero_grad()
    loss.backward()
    opt.step()
    smooth = loss.item() if smooth is None else 0.9 * smooth + 0.1 * loss.item()
    step += 1
    if step % 25 == 0:
        print(f"step {step} huber {smooth:.4f}")

model.eval()
with torch.no_grad():
    val = [criterion(model(a).squeeze(-1), b).item() for a, b in DataLoader(val_set, batch_size=60)]
print("validation", np.mean(val))
