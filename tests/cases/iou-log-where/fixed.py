import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(31)
torch.set_num_threads(2)

SIZE, STRIDE = 48, 6
CELLS = SIZE // STRIDE


def lanes_of_cars(n=96):
    img = torch.rand(n, 1, SIZE, SIZE) * 0.3
    box = torch.zeros(n, 4)
    for i in range(n):
        w, h = torch.randint(8, 20, (2,)).tolist()
        x, y = torch.randint(0, SIZE - 20, (2,)).tolist()
        img[i, 0, y:y + h, x:x + w] += 0.6
        box[i] = torch.tensor([x, y, x + w, y + h])
    return TensorDataset(img, box)


centers = (torch.arange(CELLS) + 0.5) * STRIDE
CY, CX = torch.meshgrid(centers, centers, indexing="ij")


class UnitBox(nn.Module):
    """Every cell predicts its distances to the four sides."""

    def __init__(self, c=16):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, c, 5, 2, 2), nn.ReLU(), nn.Conv2d(c, 2 * c, 3, 3, 1), nn.ReLU(),
                                  nn.Conv2d(2 * c, 2 * c, 3, 1, 1), nn.ReLU())
        self.conf = nn.Conv2d(2 * c, 1, 1)
        self.ltrb = nn.Conv2d(2 * c, 4, 1)

    def forward(self, x):
        f = self.body(x)
        l, t, r, b = (F.relu(self.ltrb(f)) * STRIDE).unbind(1)
        return self.conf(f).squeeze(1), torch.stack([CX - l, CY - t, CX + r, CY + b], dim=-1)


def overlap(pred, gt):
    lt = torch.max(pred[..., :2], gt[..., :2])
    rb = torch.min(pred[..., 2:], gt[..., 2:])
    inter = (rb - lt).clamp(min=0).prod(dim=-1)
    a = (pred[..., 2:] - pred[..., :2]).prod(dim=-1)
    b = (gt[..., 2:] - gt[..., :2]).prod(dim=-1)
    return inter / (a + b - inter)


def localisation(pred, gt):
    iou = overlap(pred, gt)
    cost = -torch.log(torch.where(iou > 0, iou, torch.ones_like(iou)))
    return torch.where(iou > 0, cost, torch.full_like(iou, 3.0))


def loss_fn(conf, pred, box):
    gt = box[:, None, None, :].expand_as(pred)
    inside = (CX > gt[..., 0]) & (CX < gt[..., 2]) & (CY > gt[..., 1]) & (CY < gt[..., 3])
    conf_loss = F.binary_cross_entropy_with_logits(conf, inside.float())
    loc = localisation(pred, gt)
    return conf_loss, loc[inside].mean()


def evaluate(model, loader):
    with torch.no_grad():
        hits = [(overlap(model(x)[1].amax(dim=(1, 2)), b) > 0.5).float().mean() for x, b in loader]
    return torch.stack(hits).mean().item()


if __name__ == "__main__":
    loader = DataLoader(lanes_of_cars(), batch_size=8, shuffle=True)
    model = UnitBox()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(4):
        for x, box in loader:
            conf_loss, loc_loss = loss_fn(*model(x), box)
            loss = conf_loss + loc_loss
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(f"epoch {epoch}: conf {conf_loss.item():.4f} loc {loc_loss.item():.4f} hit {evaluate(model, loader):.3f}")
