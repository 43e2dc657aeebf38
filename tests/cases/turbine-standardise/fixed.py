"""Remaining useful life of turbofan engines from multichannel sensor cycles."""
import numpy as np
import torch
import torch.nn as nn

torch.set_num_threads(2)
torch.manual_seed(9)
WINDOW = 15


def simulate_engines(engines=12, seed=30):
    """Cycles x channels per engine, with the settings columns first, like the public files."""
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(engines):
        life = int(rng.integers(90, 140))
        wear = np.linspace(0, 1, life) ** 2
        altitude = rng.normal(0, 0.002, life)
        mach = rng.normal(0, 0.0003, life)
        throttle = np.full(life, 100.0)
        temps = 640 + 3 * wear[:, None] * rng.uniform(0.5, 1.5, 4) + rng.normal(0, 0.4, (life, 4))
        speed = 2388 + 0.2 * wear + rng.normal(0, 0.02, life)
        runs.append(np.column_stack([altitude, mach, throttle, temps, speed]).astype(np.float32))
    return runs


def windows(runs):
    xs, ys = [], []
    for run in runs:
        for end in range(WINDOW, len(run)):
            xs.append(run[end - WINDOW:end])
            ys.append(min(len(run) - end, 80) / 80.0)
    return torch.tensor(np.stack(xs)), torch.tensor(ys, dtype=torch.float32)


class RULNet(nn.Module):
    def __init__(self, channels, hidden=32):
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.out = nn.Sequential(nn.Linear(hidden, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x):
        h, _ = self.lstm(x)
        return self.out(h[:, -1]).squeeze(-1)


X, Y = windows(simulate_engines())
flat = X.reshape(-1, X.shape[-1])
mean, std = flat.mean(0), flat.std(0)
X = (X - mean) / std.clamp(min=1e-6)

model = RULNet(X.shape[-1])
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
loss_fn = nn.MSELoss()
for epoch in range(3):
    perm = torch.randperm(len(X))
    for a in range(0, len(X), 64):
        idx = perm[a:a + 64]
        pred = model(X[idx])
        loss = loss_fn(pred, Y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rmse = 80 * loss.item() ** 0.5
    print(f"epoch {epoch} rmse {rmse:.2f} cycles")
