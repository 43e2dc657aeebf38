import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(103)
torch.set_num_threads(2)

WIN, GRID = 4, 8


def shift_mask(shift):
    """-inf between positions which are neighbours only because of the cyclic shift."""
    region = torch.zeros(GRID, GRID)
    k = 0
    for ys in (slice(0, -WIN), slice(-WIN, -shift), slice(-shift, None)):
        for xs in (slice(0, -WIN), slice(-WIN, -shift), slice(-shift, None)):
            region[ys, xs] = k
            k += 1
    r = region.view(GRID // WIN, WIN, GRID // WIN, WIN).transpose(1, 2).reshape(-1, WIN * WIN)
    mask = torch.zeros(len(r), WIN * WIN, WIN * WIN)
    return mask.masked_fill(r[:, :, None] != r[:, None, :], float("-inf"))


class Block(nn.Module):
    def __init__(self, dim, shift, heads=2):
        super().__init__()
        self.shift, self.heads = shift, heads
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.register_buffer("mask", shift_mask(shift) if shift else None)

    def forward(self, x):
        b, _, _, c = x.shape
        y = torch.roll(self.n1(x), (-self.shift, -self.shift), dims=(1, 2))
        w = y.view(b, GRID // WIN, WIN, GRID // WIN, WIN, c).transpose(2, 3).reshape(-1, WIN * WIN, c)
        mask = None if self.mask is None else self.mask.repeat(b, 1, 1).repeat_interleave(self.heads, 0)
        w = self.attn(w, w, w, attn_mask=mask, need_weights=False)[0]
        w = w.view(b, GRID // WIN, GRID // WIN, WIN, WIN, c).transpose(2, 3).reshape(b, GRID, GRID, c)
        x = x + torch.roll(w, (self.shift, self.shift), dims=(1, 2))
        return x + self.mlp(self.n2(x))


class ShiftedNet(nn.Module):
    def __init__(self, dim=24):
        super().__init__()
        self.embed = nn.Conv2d(1, dim, 4, 4)
        self.blocks = nn.Sequential(Block(dim, 0), Block(dim, 2))
        self.head = nn.Linear(dim, 3)

    def forward(self, x):
        x = self.blocks(self.embed(x).permute(0, 2, 3, 1))
        return self.head(x.mean(dim=(1, 2)))


def knots(n):
    y = torch.randint(0, 3, (n,))
    img = torch.rand(n, 1, 32, 32) * 0.2
    for i in range(n):
        r, c = torch.randint(2, 22, (2,)).tolist()
        img[i, 0, r:r + 4 + 2 * int(y[i]), c:c + 4] += 3.0
    return img, y


x, y = knots(128)
model = ShiftedNet()
opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
for epoch in range(4):
    for idx in torch.randperm(len(x)).split(16):
        loss = F.cross_entropy(model(x[idx]), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
