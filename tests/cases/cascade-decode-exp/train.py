import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import generalized_box_iou_loss

torch.manual_seed(30)
torch.set_num_threads(2)

SIZE = 64


class Signs(Dataset):
    """Photographs from the dashboard camera (8 bit) with one traffic sign, plus a rough proposal for it."""

    def __init__(self, n=128, seed=3):
        g = torch.Generator().manual_seed(seed)
        self.img = torch.randint(0, 90, (n, 3, SIZE, SIZE), generator=g, dtype=torch.uint8)
        wh = torch.randint(12, 30, (n, 2), generator=g).float()
        xy = (torch.rand(n, 2, generator=g) * (SIZE - wh)).floor()
        self.box = torch.cat([xy, xy + wh], dim=1)
        for i, (x1, y1, x2, y2) in enumerate(self.box.int().tolist()):
            self.img[i, :, y1:y2, x1:x2] += 150
        jitter = torch.randn(n, 4, generator=g) * 3
        self.proposal = self.box + jitter
        self.proposal[:, 2:] = torch.max(self.proposal[:, 2:], self.proposal[:, :2] + 4)

    def __len__(self):
        return len(self.img)

    def __getitem__(self, i):
        return self.img[i].float(), self.proposal[i], self.box[i]


def decode(proposal, delta):
    w, h = proposal[:, 2] - proposal[:, 0], proposal[:, 3] - proposal[:, 1]
    cx, cy = proposal[:, 0] + 0.5 * w, proposal[:, 1] + 0.5 * h
    dx, dy, dw, dh = delta.unbind(1)
    px, py = cx + dx * w, cy + dy * h
    size = torch.stack([dw, dh], dim=1).exp() * torch.stack([w, h], dim=1)
    pw, ph = size.unbind(1)
    return torch.stack([px - 0.5 * pw, py - 0.5 * ph, px + 0.5 * pw, py + 0.5 * ph], dim=1)


class RefineStage(nn.Module):
    def __init__(self, channels=12):
        super().__init__()
        self.fc1 = nn.Linear(channels * 16, 64)
        self.delta = nn.Linear(64, 4)

    def forward(self, roi):
        return self.delta(torch.relu(self.fc1(roi.flatten(1))))


class Cascade(nn.Module):
    """Two refinement stages on crops of a shared feature map."""

    def __init__(self, c=12):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, c, 3, 2, 1), nn.ReLU(), nn.Conv2d(c, c, 3, 2, 1), nn.ReLU())
        self.pool = nn.LPPool2d(1, 4)
        self.stages = nn.ModuleList([RefineStage(c), RefineStage(c)])

    def forward(self, img, proposal):
        feat = self.pool(self.backbone(img))
        boxes = []
        for stage in self.stages:
            proposal = decode(proposal, stage(feat))
            boxes.append(proposal)
            proposal = proposal.detach()
        return boxes


def main():
    loader = DataLoader(Signs(), batch_size=8, shuffle=True)
    model = Cascade()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    it, seen = iter(loader), 0
    while seen < 60:
        try:
            img, proposal, gt = next(it)
        except StopIteration:
            it = iter(loader)
            continue
        first, second = model(img, proposal)
        loss_1 = generalized_box_iou_loss(first, gt, reduction="mean")
        loss_2 = generalized_box_iou_loss(second, gt, reduction="mean")
        loss = loss_1 + 0.5 * loss_2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += 1
        if seen % 6 == 0:
            print(f"{seen:4d} stage1 {loss_1.item():.4f} stage2 {loss_2.item():.4f}")


if __name__ == "__main__":
    main()
