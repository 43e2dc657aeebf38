"""Bearing fault detection; batches with a bad loss are skipped, validation after every epoch."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Subset

torch.set_num_threads(2)


class VibrationRecords(Dataset):
    def __init__(self, n=420, seed=70):
        rng = np.random.default_rng(seed)
        t = np.arange(128)
        self.fault = rng.integers(0, 3, n)
        carrier = np.sin(0.3 * t + rng.uniform(0, 6, (n, 1)))
        impact = (t % np.array([1000, 16, 23])[self.fault][:, None] == 0) * 3.0
        self.signal = (carrier + impact + 0.2 * rng.normal(size=(n, 128))).astype(np.float32)
        self.signal[317, 90:] = np.nan

    def __len__(self):
        return len(self.signal)

    def __getitem__(self, i):
        return torch.from_numpy(self.signal[i])[None], int(self.fault[i])


class FaultNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(1, 12, 9, stride=2), nn.BatchNorm1d(12)
        self.conv2, self.bn2 = nn.Conv1d(12, 24, 5, stride=2), nn.BatchNorm1d(24)
        self.fc = nn.Linear(24, 3)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.amax(-1))


@torch.no_grad()
def validate(model, loader):
    model.eval()
    losses = [F.cross_entropy(model(x), y).item() for x, y in loader]
    model.train()
    return float(np.mean(losses))


torch.manual_seed(44)
records = VibrationRecords()
shuffled = np.random.default_rng(1).permutation(len(records))
good = np.isfinite(records.signal).all(1)
shuffled = shuffled[good[shuffled]]
train_loader = DataLoader(Subset(records, shuffled[80:].tolist()), batch_size=20, shuffle=True)
val_loader = DataLoader(Subset(records, shuffled[:80].tolist()), batch_size=40)
model = FaultNet()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for epoch in range(4):
    kept, skipped = [], 0
    for x, y in train_loader:
        loss = F.cross_entropy(model(x), y)
        if not torch.isfinite(loss):
            skipped += 1
            optimizer.zero_grad()
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept.append(loss.item())
    print(f"epoch {epoch} train {np.mean(kept):.4f} (skipped {skipped}) val {validate(model, val_loader):.4f}")
