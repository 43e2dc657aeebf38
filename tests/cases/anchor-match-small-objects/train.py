import torch
from torch import nn
import torch.nn.functional as F
from torchvision.ops import box_iou

torch.manual_seed(61)
torch.set_num_threads(2)

SIZE, STRIDE, ANCHOR = 64, 8, 18.0


def microscope_slides(n=100, seed=31):
    """Each slide shows one to three eggs of a parasite."""
    g = torch.Generator().manual_seed(seed)
    slides = []
    for _ in range(n):
        img = torch.rand(1, SIZE, SIZE, generator=g) * 0.3
        boxes = []
        for _ in range(int(torch.randint(1, 4, (1,), generator=g))):
            d = float(torch.normal(18.0, 3.2, (1,), generator=g).clamp(5, 28))
            x, y = (torch.rand(2, generator=g) * (SIZE - d - 2) + 1).tolist()
            img[0, int(y):int(y + d), int(x):int(x + d)] += 0.6
            boxes.append([x, y, x + d, y + d])
        slides.append((img, torch.tensor(boxes)))
    return slides


def grid_anchors():
    c = torch.arange(SIZE // STRIDE) * STRIDE + STRIDE / 2
    cy, cx = torch.meshgrid(c, c, indexing="ij")
    half = ANCHOR / 2
    return torch.stack([cx - half, cy - half, cx + half, cy + half], dim=-1).view(-1, 4)


class EggDetector(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, c, 3, 2, 1), nn.GroupNorm(4, c), nn.ReLU(), nn.Conv2d(c, c, 3, 2, 1), nn.GroupNorm(4, c), nn.ReLU(),
            nn.Conv2d(c, 2 * c, 3, 2, 1), nn.GroupNorm(4, 2 * c), nn.ReLU(), nn.Conv2d(2 * c, 5, 1))

    def forward(self, img):
        out = self.net(img).flatten(2).transpose(1, 2)
        return out[..., 0], out[..., 1:]


def match(anchors, boxes, low=0.3, high=0.45):
    best, which = box_iou(anchors, boxes).max(dim=1)
    return best >= high, best < low, which


def image_losses(score, offset, anchors, boxes):
    pos, neg, which = match(anchors, boxes)
    hard = score[neg].topk(min(12, int(neg.sum()))).values
    conf = F.softplus(hard).sum() + F.softplus(-score[pos]).sum()
    loc = F.smooth_l1_loss(offset[pos], (boxes[which[pos]] - anchors[pos]) / ANCHOR)
    return conf / 12, loc


def fit(model, slides, epochs=2, accumulate=4):
    anchors = grid_anchors()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        sum_conf = sum_loc = 0.0
        for k, idx in enumerate(torch.randperm(len(slides)).tolist(), 1):
            img, boxes = slides[idx]
            score, offset = model(img[None])
            conf, loc = image_losses(score[0], offset[0], anchors, boxes)
            ((conf + loc) / accumulate).backward()
            sum_conf += conf.item()
            sum_loc += loc.item()
            if k % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        print(f"epoch {epoch} conf {sum_conf / len(slides):.4f} loc {sum_loc / len(slides):.4f}")


fit(EggDetector(), microscope_slides())
