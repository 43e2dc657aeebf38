import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(102)
torch.set_num_threads(2)

CLASSES, VOID = 5, 255
COLORS = torch.rand(CLASSES, 3)


def floor_plans(n, size=32):
    """Room types on a grid; walls are void, some types are rare."""
    freq = torch.tensor([0.5, 0.3, 0.17, 0.03, 0.0])
    rooms = torch.multinomial(freq, n * 16, replacement=True).view(n, 4, 4)
    mask = rooms.repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
    img = COLORS[mask].permute(0, 3, 1, 2) + 0.05 * torch.randn(n, 3, size, size)
    mask[:, ::8] = VOID
    mask[:, :, ::8] = VOID
    return TensorDataset(img, mask)


class UNet(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, c, 3, 1, 1), nn.BatchNorm2d(c), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(c, 2 * c, 3, 2, 1), nn.BatchNorm2d(2 * c), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * c, c, 2, 2)
        self.out = nn.Conv2d(2 * c, CLASSES, 1)

    def forward(self, x):
        a = self.a(x)
        return self.out(torch.cat([a, self.up(self.b(a))], dim=1))


def class_iou(conf):
    inter = conf.diag()
    union = conf.sum(0) + conf.sum(1) - inter
    return inter / union


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    conf = torch.zeros(CLASSES, CLASSES)
    for img, mask in loader:
        pred = model(img).argmax(1)
        ok = mask != VOID
        conf += torch.bincount(mask[ok] * CLASSES + pred[ok], minlength=CLASSES ** 2).view(CLASSES, CLASSES)
    return class_iou(conf)


train_loader = DataLoader(floor_plans(96), batch_size=8, shuffle=True)
val_loader = DataLoader(floor_plans(24), batch_size=8)
model = UNet()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
best = float("-inf")
for epoch in range(4):
    model.train()
    total = 0.0
    for img, mask in train_loader:
        loss = F.cross_entropy(model(img), mask, ignore_index=VOID)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    iou = evaluate(model, val_loader)
    best = max(best, iou.nanmean().item())
    print(f"epoch {epoch} loss {total / len(train_loader):.4f} miou {iou.nanmean().item():.3f} best {best:.3f}",
          "per class", [round(iou[k].item(), 3) for k in range(CLASSES)])
