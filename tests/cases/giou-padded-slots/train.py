import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(9)
torch.set_num_threads(2)

SLOTS, SIZE = 4, 48


def scene(gen):
    """Up to SLOTS crates on a floor plan; boxes are sorted left to right, missing slots are filled with zeros."""
    img = torch.rand(1, SIZE, SIZE, generator=gen) * 0.2
    n = int(torch.randint(2, SLOTS + 1, (1,), generator=gen))
    boxes, valid = torch.zeros(SLOTS, 4), torch.zeros(SLOTS)
    x = 1
    for k in range(n):
        w, h = torch.randint(5, 11, (2,), generator=gen).tolist()
        y = int(torch.randint(1, SIZE - 12, (1,), generator=gen))
        img[0, y:y + h, x:x + w] += 0.7
        boxes[k] = torch.tensor([x, y, x + w, y + h]) / SIZE
        valid[k] = 1
        x += w + 1
    return img, boxes, valid


class SlotRegressor(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, c, 3, 2, 1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 3, 2, 1), nn.BatchNorm2d(c), nn.ReLU(),
            nn.Flatten(), nn.Linear(c * (SIZE // 4) ** 2, 96), nn.ReLU())
        self.boxes = nn.Linear(96, SLOTS * 4)
        self.score = nn.Linear(96, SLOTS)

    def forward(self, x):
        f = self.trunk(x)
        p = F.relu(self.boxes(f)).view(-1, SLOTS, 4)
        top_left, size = p[..., :2], p[..., 2:]
        return torch.cat([top_left, top_left + size], dim=-1), self.score(f)


def area(b):
    return (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])


def giou_loss(pred, gt):
    inter_lt = torch.max(pred[..., :2], gt[..., :2])
    inter_rb = torch.min(pred[..., 2:], gt[..., 2:])
    inter = (inter_rb - inter_lt).clamp(min=0).prod(dim=-1)
    union = area(pred) + area(gt) - inter
    hull_lt = torch.min(pred[..., :2], gt[..., :2])
    hull_rb = torch.max(pred[..., 2:], gt[..., 2:])
    hull = (hull_rb - hull_lt).prod(dim=-1)
    iou = inter / (union + 1e-7)
    return 1 - iou + (hull - union) / hull


gen = torch.Generator().manual_seed(41)
scenes = [scene(gen) for _ in range(96)]
net = SlotRegressor()
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
batch_size = 12
for epoch in range(6):
    order = torch.randperm(len(scenes), generator=gen).tolist()
    log = {"giou": 0.0, "l1": 0.0, "score": 0.0}
    for start in range(0, len(order), batch_size):
        img, gt, valid = (torch.stack(t) for t in zip(*[scenes[i] for i in order[start:start + batch_size]]))
        pred, score = net(img)
        terms = {
            "giou": (giou_loss(pred, gt) * valid).sum() / valid.sum(),
            "l1": F.l1_loss(pred, gt),
            "score": F.binary_cross_entropy_with_logits(score, valid),
        }
        loss = 2 * terms["giou"] + 5 * terms["l1"] + terms["score"]
        opt.zero_grad()
        loss.backward()
        opt.step()
        for k, v in terms.items():
            log[k] += v.item() * batch_size / len(order)
    print(f"epoch {epoch}", {k: round(v, 4) for k, v in log.items()})
