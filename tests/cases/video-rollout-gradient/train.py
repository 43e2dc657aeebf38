import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(52)
torch.set_num_threads(2)

FRAMES, SIZE = 30, 8


def clips(n, gen):
    """Radar echoes drifting over the map; the last frame is to be predicted from the first two."""
    blob = F.interpolate(torch.rand(n, 1, 4, 4, generator=gen), size=SIZE, mode="bilinear")
    vy, vx = torch.randint(-1, 2, (2, n), generator=gen)
    first, second, last = [], [], []
    for i in range(n):
        v = (int(vy[i]), int(vx[i]))
        first.append(blob[i])
        second.append(torch.roll(blob[i], v, dims=(1, 2)))
        last.append(torch.roll(blob[i], (v[0] * FRAMES, v[1] * FRAMES), dims=(1, 2)))
    return torch.stack(first), torch.stack(second), torch.stack(last)


class Cell(nn.Module):
    """One time step of the nowcast, with a linear carry as in an identity RNN."""

    def __init__(self, channels):
        super().__init__()
        self.carry = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.dirac_(self.carry.weight)
        self.carry.weight.data += 0.03 * torch.randn_like(self.carry.weight)
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, h):
        return self.carry(h) + 0.1 * torch.tanh(self.gate(h))


class Nowcast(nn.Module):
    def __init__(self, channels=8, steps=FRAMES - 1):
        super().__init__()
        self.steps = steps
        self.encode = nn.Conv2d(2, channels, 3, padding=1)
        self.cell = Cell(channels)
        self.decode = nn.Conv2d(channels, 1, 1)

    def forward(self, a, b):
        h = F.relu(self.encode(torch.cat([a, b], dim=1)))
        for _ in range(self.steps):
            h = self.cell(h)
        return self.decode(h)


def run(steps=14, batch=4):
    gen = torch.Generator().manual_seed(3)
    model = Nowcast()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for step in range(1, steps + 1):
        a, b, last = clips(batch, gen)
        pred = model(a, b)
        loss = F.mse_loss(pred, last)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 2 == 0:
            print(f"step {step:3d} mse {loss.item():.5g}")


if __name__ == "__main__":
    run()
