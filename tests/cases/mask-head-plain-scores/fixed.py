import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import roi_align

torch.manual_seed(73)
torch.set_num_threads(2)


class Coins(Dataset):
    """One image with two coins, their boxes and their masks."""

    def __init__(self, n=60, size=48):
        self.n, self.size = n, size

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(1000 + i)
        s = self.size
        yy, xx = torch.meshgrid(torch.arange(s), torch.arange(s), indexing="ij")
        img, masks, boxes = torch.rand(1, s, s, generator=g) * 0.3, [], []
        for left in (0, s // 2):
            r = int(torch.randint(5, 11, (1,), generator=g))
            cy, cx = int(torch.randint(12, s - 12, (1,), generator=g)), left + s // 4
            m = ((yy - cy) ** 2 + (xx - cx) ** 2 <= r * r).float()
            img += 0.6 * m
            masks.append(m)
            boxes.append(torch.tensor([cx - r, cy - r, cx + r + 1, cy + r + 1.0]))
        return img, torch.stack(boxes), torch.stack(masks)


def collate(samples):
    imgs, boxes, masks = zip(*samples)
    return torch.stack(imgs), list(boxes), list(masks)


class MaskBranch(nn.Module):
    def __init__(self, c=16, out=12):
        super().__init__()
        self.out = out
        self.backbone = nn.Sequential(nn.Conv2d(1, c, 3, 1, 1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 3, 2, 1), nn.ReLU())
        self.tower = nn.Sequential(nn.Conv2d(c, c, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(c, c, 2, 2), nn.ReLU())
        self.predict = nn.Conv2d(c, 1, 1)

    def forward(self, imgs, boxes):
        roi = roi_align(self.backbone(imgs), boxes, output_size=self.out // 2, spatial_scale=0.5, sampling_ratio=2)
        return self.predict(self.tower(roi)).squeeze(1)


def mask_targets(boxes, masks, out):
    crops = [roi_align(m[:, None], [b[k:k + 1] if j == k else b[:0] for j in range(len(m))], out, sampling_ratio=2)
             for b, m in zip(boxes, masks) for k in range(len(m))]
    return (torch.cat(crops).squeeze(1) > 0.5).float()


def cross_entropy(p, t):
    return nn.functional.binary_cross_entropy_with_logits(p, t)


loader = DataLoader(Coins(), batch_size=6, shuffle=True, collate_fn=collate)
model = MaskBranch()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for epoch in range(3):
    running = 0.0
    for imgs, boxes, masks in loader:
        pred = model(imgs, boxes)
        loss = cross_entropy(pred, mask_targets(boxes, masks, model.out))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
    print(f"epoch {epoch}: mask loss {running / len(loader):.4f}")
