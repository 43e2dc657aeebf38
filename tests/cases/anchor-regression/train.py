"""One-object detector on a coarse grid: anchor classification plus box-delta regression."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

torch.set_num_threads(2)
SIZE, STRIDE = 32, 8
ANCHOR_SIDE = 12.0


class Rectangles(Dataset):
    def __init__(self, n=240, seed=6):
        g = torch.Generator().manual_seed(seed)
        corner = torch.randint(0, 18, (n, 2), generator=g)
        extent = torch.randint(6, 14, (n, 2), generator=g)
        self.boxes = torch.cat([corner, corner + extent], 1).float()
        self.boxes[:, 2:].clamp_(max=SIZE)
        self.boxes[163, 0] = self.boxes[163, 2]
        self.noise = 0.1 * torch.randn(n, 1, SIZE, SIZE, generator=g)

    def __len__(self):
        return len(self.boxes)

    def __getitem__(self, i):
        image = self.noise[i].clone()
        x0, y0, x1, y1 = self.boxes[i].int().tolist()
        image[:, y0:y1, x0:x1] += 1.0
        return {"image": image, "box": self.boxes[i]}


def make_anchors():
    c = torch.arange(SIZE // STRIDE) * STRIDE + STRIDE / 2
    cy, cx = torch.meshgrid(c, c, indexing="ij")
    return torch.stack([cx.flatten(), cy.flatten()], 1)


def encode(box, centre):
    wh = box[:, 2:] - box[:, :2]
    mid = (box[:, :2] + box[:, 2:]) / 2
    return torch.cat([(mid - centre) / ANCHOR_SIDE, torch.log(wh / ANCHOR_SIDE)], 1)


class GridDetector(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(),
        )
        self.score, self.delta = nn.Conv2d(32, 1, 1), nn.Conv2d(32, 4, 1)

    def forward(self, image):
        f = self.trunk(image)
        return self.score(f).flatten(1), self.delta(f).flatten(2).transpose(1, 2)


def collate(items):
    return {k: torch.stack([it[k] for it in items]) for k in items[0]}


torch.manual_seed(5)
data = Rectangles()
loader = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 16, drop_last=False), collate_fn=collate)
anchors = make_anchors()
model = GridDetector()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

for epoch in range(4):
    meter = {"cls": 0.0, "reg": 0.0}
    for batch in loader:
        score, delta = model(batch["image"])
        middle = (batch["box"][:, :2] + batch["box"][:, 2:]) / 2
        match = torch.cdist(middle, anchors).argmin(1)
        losses = {"cls": F.cross_entropy(score, match)}
        picked = delta[torch.arange(len(match)), match]
        losses["reg"] = F.smooth_l1_loss(picked, encode(batch["box"], anchors[match]))
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for k, v in losses.items():
            meter[k] += v.item() / len(loader)
    print(f"epoch {epoch} " + " ".join(f"{k} {v:.4f}" for k, v in meter.items()))
