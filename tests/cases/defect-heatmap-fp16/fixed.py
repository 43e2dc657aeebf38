"""Defect heatmaps from microscope tiles: float16 autocast, squared error summed over pixels."""
import torch
import torch.nn as nn

torch.set_num_threads(2)
torch.manual_seed(33)
SIDE = 32


class HeatmapNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc1 = nn.Conv2d(1, 16, 3, padding=1)
        self.enc2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.up = nn.Upsample(scale_factor=2)
        self.dec = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, x):
        h = torch.relu(self.enc1(x))
        h = torch.relu(self.enc2(h))
        return self.dec(self.up(h))


def tiles(n=160):
    """Heat is given in detector counts per pixel."""
    ys, xs = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    centre = torch.randint(4, SIDE - 4, (n, 2))
    dist = (ys - centre[:, 0, None, None]) ** 2 + (xs - centre[:, 1, None, None]) ** 2
    blob = torch.exp(-dist / 18.0)[:, None]
    return blob + 0.1 * torch.randn(n, 1, SIDE, SIDE), 900.0 * blob


images, heat = tiles()
net = HeatmapNet()
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
order = iter([])
step = 0
while step < 60:
    try:
        idx = next(order)
    except StopIteration:
        order = iter(torch.randperm(len(images)).split(16))
        idx = next(order)
    with torch.autocast("cpu", dtype=torch.float16):
        pred = net(images[idx])
    loss = (pred.float() - heat[idx]).pow(2).sum()
    opt.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()
    if step % 10 == 0:
        print(f"step {step} per-pixel {loss.item() / heat[idx].numel():.3f}")
    step += 1
