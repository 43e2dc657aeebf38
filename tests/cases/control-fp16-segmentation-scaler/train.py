import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(106)
torch.set_num_threads(2)


def cracks(n, size=32):
    """Concrete surfaces with a vertical crack."""
    img = torch.rand(n, 1, size, size) * 0.3 + 0.5
    mask = torch.zeros(n, size, size)
    for i, c in enumerate(torch.randint(4, size - 4, (n,)).tolist()):
        walk = (c + torch.randint(-1, 2, (size,)).cumsum(0)).clamp(0, size - 1)
        mask[i, torch.arange(size), walk] = 1
    img[:, 0] -= 0.4 * mask
    return img, mask


class CrackNet(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, c, 3, 1, 1), nn.ReLU(), nn.Conv2d(c, c, 3, 1, 1), nn.ReLU())
        self.out = nn.Conv2d(c, 1, 1)

    def forward(self, x):
        return self.out(self.enc(x)).squeeze(1)


class Trainer:
    def __init__(self):
        self.model = CrackNet()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 30, growth_interval=100)

    def step(self, img, mask):
        with torch.autocast("cpu", dtype=torch.float16):
            logits = self.model(img)
        loss = F.binary_cross_entropy_with_logits(logits.float(), mask, pos_weight=torch.tensor(8.0), reduction="sum") / len(img)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 50.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item(), norm.item()


trainer = Trainer()
img, mask = cracks(96)
for epoch in range(6):
    for idx in torch.randperm(len(img)).split(8):
        loss, norm = trainer.step(img[idx], mask[idx])
    print(f"epoch {epoch} loss {loss:.3f} grad norm {norm:.3f} scale {trainer.scaler.get_scale():g}")
