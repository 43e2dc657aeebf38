"""Pixel classifier for crop rows, focal loss, two crops of the field per step."""
import torch
from torch import nn

torch.manual_seed(6)
torch.set_num_threads(2)


def field(n, size, gen):
    row = torch.randint(4, 7, (n,), generator=gen)
    phase = torch.randint(0, 8, (n,), generator=gen)
    x = torch.arange(size)
    stripes = ((x[None] + phase[:, None]) % 8 < row[:, None]).long()
    mask = stripes[:, None, :].expand(n, size, size).contiguous()
    img = torch.randn(n, 3, size, size, generator=gen) * 0.05
    img[:, 1] += mask * 0.8
    img[:, 0] += (1 - mask) * 0.6
    return img, mask


class FocalLoss(nn.Module):
    def __init__(self, gamma, weight=None):
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", weight)

    def forward(self, logits, target):
        log_p = logits.log_softmax(dim=1).gather(1, target[:, None]).squeeze(1)
        p = log_p.exp().clamp(max=1 - 1e-6)
        loss = -((1 - p) ** self.gamma) * log_p
        if self.weight is not None:
            loss = loss * self.weight[target]
        return loss.mean()


class LinkNet(nn.Module):
    def __init__(self, c=12):
        super().__init__()
        self.enc1 = nn.Sequential(nn.Conv2d(3, c, 3, 1, 1), nn.BatchNorm2d(c), nn.ReLU())
        self.enc2 = nn.Sequential(nn.Conv2d(c, 2 * c, 3, 2, 1), nn.BatchNorm2d(2 * c), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * c, c, 2, 2)
        self.out = nn.Conv2d(c, 2, 1)

    def forward(self, x):
        a = self.enc1(x)
        return self.out(torch.relu(self.up(self.enc2(a)) + a))


gen = torch.Generator().manual_seed(77)
net = LinkNet()
criterion = FocalLoss(gamma=0.5, weight=torch.tensor([1.0, 1.5]))
optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)

net.train()
for step in range(100):
    img, mask = field(4, 24, gen)
    loss = criterion(net(img), mask)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    if step % 20 == 0:
        net.eval()
        with torch.no_grad():
            img, mask = field(8, 24, gen)
            acc = (net(img).argmax(1) == mask).float().mean().item()
        net.train()
        print(f"step {step:3d} focal {loss.item():.6f} acc {acc:.4f}")
