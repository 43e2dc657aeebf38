"""Speech enhancement with a compressed magnitude loss."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset, Subset

torch.manual_seed(7)
torch.set_num_threads(1)
WIN = 64


def magnitude(x):
    spec = torch.stft(x, WIN, 32, window=torch.hann_window(WIN), return_complex=True)
    return spec.real.square() + spec.imag.square() + 1e-8


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(1, 16, 9, padding=4, bias=False), nn.PReLU(), nn.Conv1d(16, 1, 9, padding=4, bias=False))

    def forward(self, x):
        return self.net(x[:, None])[:, 0]


t = torch.arange(512) / 512
clean = torch.sin(2 * torch.pi * torch.randint(5, 60, (200, 1)) * t) * torch.rand(200, 1)
noisy = clean + 0.2 * torch.randn_like(clean)
noisy[73] = 0
clean[73] = 0
data = Subset(TensorDataset(noisy, clean), list(range(20, 200)))
model = Denoiser()
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
loss_fn = nn.L1Loss()
for epoch in range(3):
    for x, y in DataLoader(data, batch_size=12, shuffle=True):
        y_hat = model(x)
        wave = loss_fn(y_hat, y)
        spectral = loss_fn(magnitude(y_hat) ** 0.15, magnitude(y) ** 0.15)
        loss = wave + 0.3 * spectral
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"{epoch} wave {wave:.4f} spectral {spectral:.4f}")
