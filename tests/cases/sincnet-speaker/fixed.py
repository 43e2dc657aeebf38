"""Speaker identification from raw waveforms with learnable band-pass filters."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(2)
torch.manual_seed(12)
RATE, SPEAKERS = 1600, 4


class SincConv(nn.Module):
    def __init__(self, filters=12, taps=41):
        super().__init__()
        edges = torch.linspace(30, RATE / 2 - 120, filters)
        self.low = nn.Parameter(edges)
        self.width = nn.Parameter(torch.full((filters,), 80.0))
        half = taps // 2
        self.register_buffer("t", torch.arange(-half, half + 1) / RATE)
        self.register_buffer("window", torch.hamming_window(taps, periodic=False))

    def lowpass(self, cutoff):
        f, t = cutoff[:, None], self.t[None, :]
        safe = torch.where(t == 0, torch.ones_like(t), t)
        return torch.where(t == 0, 2 * f, torch.sin(2 * math.pi * f * safe) / (math.pi * safe))

    def forward(self, wave):
        low = self.low.abs()
        high = (low + self.width.abs()).clamp(max=RATE / 2)
        bank = (self.lowpass(high) - self.lowpass(low)) * self.window / RATE
        return F.conv1d(wave[:, None], bank[:, None], stride=4)


class SpeakerNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.sinc = SincConv()
        self.conv = nn.Conv1d(12, 24, 5, stride=2)
        self.fc = nn.Linear(24, SPEAKERS)

    def forward(self, wave):
        h = torch.log1p(self.sinc(wave).abs())
        h = F.leaky_relu(self.conv(h), 0.2)
        return self.fc(h.mean(-1))


def voices(n, seconds=0.25):
    t = torch.arange(int(RATE * seconds)) / RATE
    who = torch.randint(0, SPEAKERS, (n,))
    pitch = 90.0 + 55.0 * who + 8 * torch.randn(n)
    wave = sum(torch.sin(2 * math.pi * k * pitch[:, None] * t) / k for k in (1, 2, 3))
    return wave + 0.2 * torch.randn_like(wave), who


net = SpeakerNet()
opt = torch.optim.Adam([
    {"params": net.sinc.parameters(), "lr": 0.5},
    {"params": list(net.conv.parameters()) + list(net.fc.parameters())},
], lr=3e-3)
for step in range(60):
    wave, who = voices(24)
    logits = net(wave)
    loss = F.cross_entropy(logits, who)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 10 == 0:
        acc = (logits.argmax(1) == who).float().mean().item()
        print(f"step {step} loss {loss.item():.4f} acc {acc:.2f}")
