"""Texture restyling with adaptive instance normalisation between encoder and decoder."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(2)
SIDE = 20


class Patches(Dataset):
    def __init__(self, n=200, seed=45):
        g = torch.Generator().manual_seed(seed)
        freq = torch.rand(n, 2, 1, 1, generator=g) * 2
        ys, xs = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        wave = torch.sin(freq[:, :1] * ys + freq[:, 1:] * xs)
        tint = torch.rand(n, 3, 1, 1, generator=g)
        self.images = (0.5 + 0.3 * wave * tint + 0.05 * torch.randn(n, 3, SIDE, SIDE, generator=g)).clamp(0, 1)
        self.images[87] = 1.0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.images[(i * 37 + 11) % len(self)]


def channel_stats(f):
    flat = f.flatten(2)
    return flat.mean(2)[..., None, None], flat.std(2)[..., None, None]


class AdaIN(nn.Module):
    def forward(self, content, style):
        c_mean, c_std = channel_stats(content)
        s_mean, s_std = channel_stats(style)
        return (content - c_mean) / (c_std + 1e-5) * s_std + s_mean


class StyleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 1), nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1, padding_mode="reflect"), nn.Tanh(),
        )
        self.adain = AdaIN()
        self.decoder = nn.Sequential(nn.Conv2d(24, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, content, style):
        target = self.adain(self.encoder(content), self.encoder(style))
        return self.decoder(target), target


class StyleTrainer:
    def __init__(self):
        self.net = StyleNet()
        self.opt = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.loader = DataLoader(Patches(), batch_size=10, shuffle=True, drop_last=True)

    def step(self, content, style):
        image, target = self.net(content, style)
        again = self.net.encoder(image)
        loss_content = F.mse_loss(again, target.detach())
        (m1, s1), (m2, s2) = channel_stats(again), channel_stats(self.net.encoder(style))
        loss_style = F.mse_loss(m1, m2) + F.mse_loss(s1, s2)
        self.opt.zero_grad()
        (loss_content + 3.0 * loss_style).backward()
        self.opt.step()
        return loss_content.item(), loss_style.item()

    def fit(self, epochs=3):
        for epoch in range(epochs):
            log = torch.tensor([self.step(c, s) for c, s in self.loader])
            print(f"epoch {epoch} content {log[:, 0].mean():.4f} style {log[:, 1].mean():.4f}")


torch.manual_seed(24)
StyleTrainer().fit()
