"""Facial landmark regression with gradient accumulation over single images."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(2)
POINTS, SIDE, ACCUM = 5, 24, 8


class Faces(Dataset):
    def __init__(self, n=200, seed=14):
        g = torch.Generator().manual_seed(seed)
        self.points = torch.rand(n, POINTS, 2, generator=g) * (SIDE - 8) + 4
        self.visible = torch.rand(n, POINTS, generator=g) > 0.25
        self.visible[:, 0] |= ~self.visible.any(1)
        self.visible[71] = False

    def __len__(self):
        return len(self.points)

    def __getitem__(self, i):
        ys, xs = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        image = torch.zeros(POINTS, SIDE, SIDE)
        for k, (px, py) in enumerate(self.points[i]):
            if self.visible[i, k]:
                image[k] = torch.exp(-((xs - px) ** 2 + (ys - py) ** 2) / 8.0)
        return {"image": image, "points": self.points[i] / SIDE, "visible": self.visible[i]}


class LandmarkNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(POINTS, 16, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 24, 5, stride=2, padding=2)
        self.coords = nn.Linear(24 * 36, POINTS * 2)
        self.presence = nn.Linear(24 * 36, POINTS)

    def forward(self, image):
        h = F.silu(self.conv2(F.silu(self.conv1(image)))).flatten(1)
        return self.coords(h).view(-1, POINTS, 2), self.presence(h)


def landmark_losses(output, batch):
    coords, presence = output
    vis = batch["visible"]
    location = F.l1_loss(coords[vis], batch["points"][vis])
    exist = F.binary_cross_entropy_with_logits(presence, vis.float())
    return location, exist


def run_epoch(net, loader, optimizer):
    optimizer.zero_grad()
    sums = torch.zeros(2)
    for i, batch in enumerate(loader, start=1):
        location, exist = landmark_losses(net(batch["image"]), batch)
        ((5.0 * location + exist) / ACCUM).backward()
        sums += torch.stack([location.detach(), exist.detach()])
        if i % ACCUM == 0 or i == len(loader):
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
    return sums / len(loader)


if __name__ == "__main__":
    torch.manual_seed(2)
    net = LandmarkNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    loader = DataLoader(Faces(), batch_size=1, shuffle=True)
    for epoch in range(3):
        location, exist = run_epoch(net, loader, optimizer).tolist()
        print(f"epoch {epoch}: location {location:.4f} presence {exist:.4f}")
