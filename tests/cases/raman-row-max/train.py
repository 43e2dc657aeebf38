"""Mineral identification from Raman spectra, rare minerals over-sampled."""
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

torch.set_num_threads(2)
MINERALS, BINS = 6, 120


class ScaleToPeak:
    def __call__(self, counts):
        counts = counts - counts.min()
        return counts / counts.max()


class SmoothBox:
    def __init__(self, width):
        self.kernel = torch.ones(1, 1, width) / width

    def __call__(self, counts):
        return nn.functional.conv1d(counts[None, None], self.kernel, padding="same")[0, 0]


class RamanSpectra(Dataset):
    def __init__(self, n=400, seed=23, transforms=()):
        rng = np.random.default_rng(seed)
        share = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
        self.mineral = rng.choice(MINERALS, n, p=share)
        peaks = rng.uniform(10, BINS - 10, (MINERALS, 3))
        axis = np.arange(BINS)
        shape = np.exp(-((axis[None, None] - peaks[..., None]) ** 2) / 8.0).sum(1)
        gain = rng.uniform(20, 200, n)
        self.counts = rng.poisson(gain[:, None] * shape[self.mineral] + 2.0).astype(np.float32)
        self.counts[256] = 65535.0
        self.transforms = transforms

    def __len__(self):
        return len(self.counts)

    def __getitem__(self, i):
        spectrum = torch.from_numpy(self.counts[i])
        for transform in self.transforms:
            spectrum = transform(spectrum)
        return spectrum, int(self.mineral[i])


def build_loader(dataset, batch_size):
    frequency = np.bincount(dataset.mineral, minlength=MINERALS)
    weights = 1.0 / frequency[dataset.mineral]
    sampler = WeightedRandomSampler(torch.tensor(weights), num_samples=600, replacement=True)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler)


class Conv1dNet(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Unflatten(1, (1, BINS)),
            nn.Conv1d(1, 12, 9, stride=2), nn.ReLU(),
            nn.Conv1d(12, 24, 9, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(24 * 24, MINERALS),
        )


torch.manual_seed(31)
dataset = RamanSpectra(transforms=(ScaleToPeak(), SmoothBox(3)))
loader = build_loader(dataset, batch_size=25)
net = Conv1dNet()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.3)
for epoch in range(5):
    hits, loss_sum = 0, 0.0
    for spectrum, mineral in loader:
        out = net(spectrum)
        loss = nn.functional.cross_entropy(out, mineral)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        hits += (out.argmax(1) == mineral).sum().item()
        loss_sum += loss.item() * len(mineral)
    scheduler.step()
    print(f"epoch {epoch} loss {loss_sum / 600:.4f} accuracy {hits / 600:.3f}")
