import math

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(4)
torch.set_num_threads(2)

SIZE = 64


class DragBoxes(Dataset):
    """A user drags a rectangle around the meter in the photograph: press point and release point."""

    def __init__(self, n=160, seed=13):
        g = torch.Generator().manual_seed(seed)
        self.press = torch.randint(2, 34, (n, 2), generator=g)
        drag = torch.randint(10, 28, (n, 2), generator=g)
        drag[torch.rand(n, generator=g) < 0.006] = 0
        self.press, drag = self.press[(drag > 0).all(dim=1)], drag[(drag > 0).all(dim=1)]
        self.release = self.press + drag
        self.noise = torch.rand(n, 1, SIZE, SIZE, generator=g) * 0.3

    def __len__(self):
        return len(self.press)

    def __getitem__(self, i):
        (x1, y1), (x2, y2) = self.press[i].tolist(), self.release[i].tolist()
        img = self.noise[i].clone()
        img[:, y1:y2 + 1, x1:x2 + 1] += 0.6
        return img, torch.tensor([x1, y1, x2, y2]) / SIZE


class BoxNet(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, c, 3, 2, 1), nn.BatchNorm2d(c), nn.SiLU(), nn.Conv2d(c, 2 * c, 3, 2, 1), nn.BatchNorm2d(2 * c), nn.SiLU(),
            nn.Conv2d(2 * c, 2 * c, 3, 2, 1), nn.BatchNorm2d(2 * c), nn.SiLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(2 * c * 16, 4)

    def forward(self, x):
        cx, cy, w, h = self.head(self.features(x)).sigmoid().unbind(1)
        return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=1)


def ciou(pred, gt):
    pw, ph = pred[:, 2] - pred[:, 0], pred[:, 3] - pred[:, 1]
    gw, gh = gt[:, 2] - gt[:, 0], gt[:, 3] - gt[:, 1]
    lt, rb = torch.max(pred[:, :2], gt[:, :2]), torch.min(pred[:, 2:], gt[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(dim=1)
    iou = inter / (pw * ph + gw * gh - inter)
    hull = torch.max(pred[:, 2:], gt[:, 2:]) - torch.min(pred[:, :2], gt[:, :2])
    centre = (pred[:, :2] + pred[:, 2:] - gt[:, :2] - gt[:, 2:]) / 2
    dist = (centre ** 2).sum(dim=1) / (hull ** 2).sum(dim=1)
    v = 4 / math.pi ** 2 * (torch.atan(gw / gh) - torch.atan(pw / ph)) ** 2
    with torch.no_grad():
        alpha = v / (1 - iou + v)
    return iou - dist - alpha * v


class EMA:
    def __init__(self, model, decay=0.99):
        self.decay = decay
        self.shadow = {k: v.clone() for k, v in model.state_dict().items()}

    def update(self, model):
        for k, v in model.state_dict().items():
            if v.is_floating_point():
                self.shadow[k].lerp_(v, 1 - self.decay)


def main():
    loader = DataLoader(DragBoxes(), batch_size=16, shuffle=True)
    net = BoxNet()
    ema = EMA(net)
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, total_steps=3 * len(loader))
    for epoch in range(3):
        total = 0.0
        for img, box in loader:
            loss = (1 - ciou(net(img), box)).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
            ema.update(net)
            total += loss.item()
        print(f"epoch {epoch + 1}: ciou loss {total / len(loader):.4f} lr {sched.get_last_lr()[0]:.2e}")


main()
