import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(3)
torch.set_num_threads(2)

RGB2XYZ = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = torch.tensor([0.9505, 1.0, 1.089])


def rgb_to_lab(rgb):
    """CIE L*a*b* of linear RGB in [0, 1], channels first."""
    xyz = torch.einsum("ij,bjhw->bihw", RGB2XYZ, rgb) / WHITE.view(1, 3, 1, 1)
    f = torch.where(xyz > 0.008856, xyz.pow(1 / 3), 7.787 * xyz + 16 / 116)
    l = 116 * f[:, 1] - 16
    a = 500 * (f[:, 0] - f[:, 1])
    b = 200 * (f[:, 1] - f[:, 2])
    return torch.stack([l, a, b], 1)


class Flowers(Dataset):
    """Flowers cut out with their matte."""

    def __init__(self, n=48, size=32):
        g = torch.Generator().manual_seed(31)
        self.alpha = torch.zeros(n, 1, size, size)
        for i in range(n):
            y, x, h, w = torch.randint(4, 14, (4,), generator=g).tolist()
            self.alpha[i, :, y:y + h + 4, x:x + w + 4] = 1.0
        self.rgb = torch.rand(n, 3, 1, 1, generator=g) * (0.6 + 0.4 * torch.rand(n, 3, size, size, generator=g))
        self.rgb *= self.alpha

    def __len__(self):
        return len(self.rgb)

    def __getitem__(self, i):
        return self.rgb[i].mean(0, keepdim=True), self.rgb[i], self.alpha[i]


class Colorizer(nn.Module):
    def __init__(self, c=24):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, c, 3, 2, 1), nn.BatchNorm2d(c), nn.ReLU())
        self.mid = nn.Sequential(nn.Conv2d(c, c, 3, 1, 1), nn.BatchNorm2d(c), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(c, c, 4, 2, 1), nn.ReLU(), nn.Conv2d(c, 3, 3, 1, 1))

    def forward(self, grey):
        x = self.down(grey)
        return self.up(x + self.mid(x)).sigmoid()


loader = DataLoader(Flowers(), batch_size=8, shuffle=True)
net = Colorizer()
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.5, 0.999))
for epoch in range(2):
    total = 0.0
    for grey, rgb, alpha in loader:
        out = net(grey) * alpha
        loss = (rgb_to_lab(out) - rgb_to_lab(rgb)).abs().mean() / 100
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} lab error {100 * total / len(loader):.2f}")
