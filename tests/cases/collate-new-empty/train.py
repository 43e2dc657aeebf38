import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)
torch.set_num_threads(2)
torch.use_deterministic_algorithms(True)


class Strokes(Dataset):
    """Pen strokes of different length."""

    def __len__(self):
        return 240

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        n = int(torch.randint(8, 30, (1,), generator=g))
        turn = (i % 3 - 1) * 0.3
        ang = torch.cumsum(torch.full((n,), turn) + 0.1 * torch.randn(n, generator=g), 0)
        return torch.stack([ang.cos(), ang.sin()], 1), i % 3


def pad(batch):
    lengths = torch.tensor([len(s) for s, _ in batch])
    x = torch.empty(len(batch), int(lengths.max()), 2)
    for row, (s, _) in zip(x, batch):
        row[:len(s)] = s
    return x, lengths, torch.tensor([c for _, c in batch])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(2, 32)
        self.mix = nn.Linear(32, 32)
        self.out = nn.Linear(32, 3)

    def forward(self, x, lengths):
        mask = (torch.arange(x.size(1)) < lengths[:, None]).unsqueeze(2)
        h = torch.tanh(self.inp(x)) * mask
        d = torch.tanh(self.mix(h)) * mask
        return self.out(d.sum(1) / lengths[:, None])


model = Encoder()
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(3):
    total = 0.0
    for x, lengths, y in DataLoader(Strokes(), batch_size=16, shuffle=True, collate_fn=pad):
        loss = nn.functional.cross_entropy(model(x, lengths), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item()
    print(f"epoch {epoch}: {total / 15:.4f}")
