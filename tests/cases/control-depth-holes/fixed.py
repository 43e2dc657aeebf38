import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(104)
torch.set_num_threads(2)


class Shelves(Dataset):
    """Colour image and depth of a warehouse robot; glass and black plastic give no depth."""

    def __init__(self, n=80, size=32, seed=6):
        rng = np.random.default_rng(seed)
        self.rgb = rng.random((n, 3, size, size)).astype(np.float32) * 0.1
        self.depth = np.full((n, size, size), 4.0, dtype=np.float32)
        for k in range(n):
            for _ in range(3):
                y, x = rng.integers(0, size - 10, 2)
                z = rng.uniform(0.8, 3.5)
                self.depth[k, y:y + 10, x:x + 10] = z
            self.rgb[k] += 1.0 / self.depth[k]
            self.depth[k][rng.random((size, size)) < 0.15] = np.nan
            self.depth[k, :3] = 0.0

    def __len__(self):
        return len(self.rgb)

    def __getitem__(self, i):
        return torch.from_numpy(self.rgb[i]), torch.from_numpy(self.depth[i])


class DepthNet(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, c, 3, 1, 1), nn.ReLU(), nn.Conv2d(c, c, 3, 1, 2, dilation=2), nn.ReLU(),
                                 nn.Conv2d(c, 2, 1))

    def forward(self, x):
        log_depth, log_var = self.net(x).unbind(1)
        return log_depth, log_var


def losses(log_depth, log_var, depth):
    valid = torch.isfinite(depth) & (depth > 0.1)
    safe = torch.where(valid, depth, torch.ones_like(depth))
    err = (log_depth - torch.log(safe)).abs()
    nll = torch.where(valid, err * torch.exp(-log_var) + log_var, torch.zeros_like(err))
    silog = (log_depth[valid] - depth[valid].log()).std()
    return nll.sum() / valid.sum().clamp(min=1), silog


loader = DataLoader(Shelves(), batch_size=8, shuffle=True)
net = DepthNet()
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
for epoch in range(4):
    log = []
    for rgb, depth in loader:
        nll, silog = losses(*net(rgb), depth)
        opt.zero_grad()
        (nll + 0.5 * silog).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        opt.step()
        with torch.no_grad():
            rel = ((net(rgb)[0].exp() - depth).abs() / depth)
        log.append((nll.item(), silog.item(), rel[torch.isfinite(rel)].mean().item()))
    print(f"epoch {epoch} nll {np.mean([r[0] for r in log]):.4f} silog {np.mean([r[1] for r in log]):.4f} "
          f"rel {np.mean([r[2] for r in log]):.4f}")
