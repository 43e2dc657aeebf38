import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(29)
torch.set_num_threads(2)


def tiles(gen, n=8, size=32):
    """Elevation tiles in metres above the valley floor; pixels of the river are the target."""
    y = torch.arange(size).float()
    slope = torch.rand(n, 1, 1, generator=gen) * 60 + 15
    centre = torch.rand(n, 1, 1, generator=gen) * 16 + 8
    wiggle = 3 * torch.sin(y / 5 + torch.rand(n, 1, generator=gen) * 6)
    d = (y[None, None, :] - centre - wiggle[:, :, None]).abs()
    height = slope * d + torch.randn(n, size, size, generator=gen)
    return height[:, None], (d < 2).float()


class NonLocal(nn.Module):
    """Every position of the map attends to every other one."""

    def __init__(self, channels, inner):
        super().__init__()
        self.inner = inner
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)

    def forward(self, x):
        b, _, h, w = x.shape
        q = self.theta(x).flatten(2).transpose(1, 2)
        k = self.phi(x).flatten(2)
        v = self.g(x).flatten(2).transpose(1, 2)
        affinity = torch.bmm(q, k) * self.inner ** -0.5
        attn = affinity.softmax(dim=-1)
        y = torch.bmm(attn.to(v.dtype), v).transpose(1, 2).reshape(b, self.inner, h, w)
        return x + self.out(y)


class RiverNet(nn.Module):
    def __init__(self, c=32):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, c, 3, 2, 1), nn.ReLU(), nn.Conv2d(c, c, 3, 2, 1), nn.ReLU())
        self.context = NonLocal(c, 64)
        self.head = nn.Conv2d(c, 1, 1)

    def forward(self, x):
        logits = self.head(self.context(self.stem(x)))
        return F.interpolate(logits.float(), scale_factor=4, mode="bilinear")[:, 0]


class Trainer:
    def __init__(self, model, lr=2e-3):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def train_step(self, x, y):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.float16):
            logits = self.model(x)
        loss = F.binary_cross_entropy_with_logits(logits, y)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    def fit(self, gen, steps):
        history = []
        for step in range(1, steps + 1):
            history.append(self.train_step(*tiles(gen)))
            if step % 10 == 0:
                print(f"step {step} loss {sum(history[-10:]) / 10:.4f} scale {self.scaler.get_scale():g}")


Trainer(RiverNet()).fit(torch.Generator().manual_seed(1), 60)
