"""Pose refinement: a network corrects a coarse rotation and translation from point features."""
import torch
import torch.nn as nn

torch.set_num_threads(2)
torch.manual_seed(8)


def from_6d(v):
    a = nn.functional.normalize(v[:, :3], dim=1)
    b = nn.functional.normalize(v[:, 3:] - (a * v[:, 3:]).sum(1, keepdim=True) * a, dim=1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], dim=-1)


def make_pairs(n=800):
    """Coarse poses come from a marker tracker; it is exact for a part of the frames."""
    true_rot = from_6d(torch.randn(n, 6))
    offset = 0.25 * torch.randn(n, 6) * (torch.rand(n, 1) > 0.15)
    coarse_rot = from_6d(true_rot[:, :, :2].transpose(1, 2).flatten(1) + offset)
    true_t = torch.randn(n, 3)
    cloud = torch.randn(12, 3)
    seen = cloud @ true_rot.transpose(1, 2) + true_t[:, None]
    return seen.flatten(1), coarse_rot, true_rot, true_t


class Refiner(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(36 + 9, 128), nn.ReLU(), nn.Linear(128, 9))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, seen, coarse):
        out = self.net(torch.cat([seen, coarse.flatten(1)], 1))
        base = coarse[:, :, :2].transpose(1, 2).flatten(1)
        return from_6d(base + out[:, :6]), out[:, 6:]


def geodesic(a, b):
    trace = (a * b).sum(dim=(1, 2))
    return torch.acos((trace - 1) / 2)


class Experiment:
    def __init__(self, batch_size=40):
        self.seen, self.coarse, self.rot, self.t = make_pairs()
        self.model = Refiner()
        self.opt = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.batch_size = batch_size

    def compute_loss(self, idx):
        rot, t = self.model(self.seen[idx], self.coarse[idx])
        loss_rot = geodesic(rot, self.rot[idx]).mean()
        loss_trans = (t - self.t[idx]).abs().mean()
        return loss_rot + loss_trans, loss_rot, loss_trans

    def epoch(self):
        for idx in torch.randperm(len(self.seen)).split(self.batch_size):
            loss, loss_rot, loss_trans = self.compute_loss(idx)
            assert torch.isfinite(loss), f"bad loss: rot {loss_rot.item()} trans {loss_trans.item()}"
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
        return loss_rot.item(), loss_trans.item()


experiment = Experiment()
for e in range(5):
    print("epoch %d rot %.4f trans %.4f" % (e, *experiment.epoch()))
