"""Face landmarks with the wing loss. Occluded points are nan in the annotation and have visibility 0."""
import math
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Dataset

torch.manual_seed(26)
torch.set_num_threads(2)


class Faces(Dataset):
    def __init__(self, n=150):
        g = torch.Generator().manual_seed(2)
        self.pts = torch.rand(n, 5, 2, generator=g) * 24 + 4
        self.vis = torch.ones(n, 5)
        self.vis[64, 2] = 0
        self.pts[64, 2] = 0
        self.img = torch.rand(n, 1, 32, 32, generator=g) * 0.2
        for i in range(n):
            for k in range(5):
                if self.vis[i, k]:
                    x, y = self.pts[i, k].long().tolist()
                    self.img[i, 0, y, x] = 1

    def __len__(self):
        return len(self.img)

    def __getitem__(self, rows):
        return {"image": self.img[rows], "landmarks": self.pts[rows] / 32, "visible": self.vis[rows]}


def wing(pred, gt, vis, w=0.3, eps=0.05):
    d = (pred - gt).abs()
    c = w - w * math.log(1 + w / eps)
    loss = torch.where(d < w, w * torch.log(1 + d / eps), d - c)
    return (loss * vis[..., None]).sum() / (2 * vis.sum())


faces = Faces()
loader = DataLoader(faces, sampler=BatchSampler(RandomSampler(faces), 10, False), batch_size=None)
net = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for epoch in range(4):
    avg = 0.0
    for batch in loader:
        pred = net(batch["image"]).view(-1, 5, 2)
        loss = wing(pred, batch["landmarks"], batch["visible"])
        opt.zero_grad()
        loss.backward()
        opt.step()
        avg += loss.item() / len(loader)
    print(f"epoch {epoch} nme-wing {avg:.4f}")
