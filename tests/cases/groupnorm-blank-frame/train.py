import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(33)
torch.set_num_threads(2)


class Endoscopy(Dataset):
    """Frames of a capsule camera and the mask of the polyp in them."""

    def __init__(self, n=90, size=32, seed=11):
        g = torch.Generator().manual_seed(seed)
        yy, xx = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        light = 0.35 + 0.14 * torch.randn(n, generator=g)
        self.img, self.mask = [], []
        for k in range(n):
            cy, cx, r = (torch.rand(3, generator=g) * torch.tensor([16.0, 16.0, 5.0]) + torch.tensor([8.0, 8.0, 4.0])).tolist()
            mask = ((yy - cy) ** 2 + (xx - cx) ** 2 < r * r).float()
            tissue = 0.2 * torch.rand(3, size, size, generator=g) + torch.tensor([0.5, 0.2, 0.15])[:, None, None]
            frame = tissue + mask * torch.tensor([0.3, 0.1, 0.0])[:, None, None]
            self.img.append((frame * light[k] / 0.35).clamp(0, 1))
            self.mask.append(mask)

    def __len__(self):
        return len(self.img)

    def __getitem__(self, i):
        return self.img[i], self.mask[i]


class ConvGN(nn.Module):
    def __init__(self, cin, cout, stride=1, groups=4):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, stride, 1, padding_mode="replicate", bias=False)
        self.norm = nn.GroupNorm(groups, cout, eps=0.0)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class PolypNet(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.enc1 = ConvGN(3, c)
        self.enc2 = ConvGN(c, 2 * c, 2)
        self.bottleneck = ConvGN(2 * c, 2 * c)
        self.dec = ConvGN(3 * c, c)
        self.out = nn.Conv2d(c, 1, 1)

    def forward(self, x):
        a = self.enc1(x)
        b = self.bottleneck(self.enc2(a))
        b = F.interpolate(b, scale_factor=2, mode="nearest")
        return self.out(self.dec(torch.cat([a, b], dim=1))).squeeze(1)


def main(epochs=3, accumulate=3):
    loader = DataLoader(Endoscopy(), batch_size=3, shuffle=True)
    model = PolypNet()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        total, inter, union = 0.0, 0.0, 0.0
        for i, (img, mask) in enumerate(loader):
            logits = model(img)
            loss = F.binary_cross_entropy_with_logits(logits, mask)
            (loss / accumulate).backward()
            if (i + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
            total += loss.item()
            pred = logits.detach() > 0
            inter += (pred & (mask > 0)).sum().item()
            union += (pred | (mask > 0)).sum().item()
        print(f"epoch {epoch} bce {total / len(loader):.4f} iou {inter / max(union, 1):.3f}")


if __name__ == "__main__":
    main()
