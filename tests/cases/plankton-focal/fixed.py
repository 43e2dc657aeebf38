"""Plankton shape classification on contour descriptors, two surveys merged, focal loss."""
import torch
import torch.nn as nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset

torch.set_num_threads(2)
CLASSES = 12


class Survey(Dataset):
    """Contour descriptors with the taxon number written by the annotator."""

    def __init__(self, n, seed, noise):
        g = torch.Generator().manual_seed(seed)
        centres = torch.randn(CLASSES, 32, generator=torch.Generator().manual_seed(0))
        taxon = torch.randint(0, CLASSES, (n,), generator=g)
        self.desc = centres[taxon] + noise * torch.randn(n, 32, generator=g)
        self.taxon = taxon

    def revise(self, changes):
        for row, taxon in changes.items():
            self.taxon[row] = taxon
        return self

    def __len__(self):
        return len(self.taxon)

    def __getitem__(self, i):
        return {"desc": self.desc[i], "taxon": self.taxon[i]}


class FocalLoss(nn.Module):
    def __init__(self, classes, gamma=2.0):
        super().__init__()
        self.gamma = gamma
        self.register_buffer("ids", torch.arange(classes))

    def forward(self, logits, target):
        probs = logits.softmax(dim=1)
        onehot = (target[:, None] == self.ids).float()
        pt = (probs * onehot).sum(dim=1)
        return (-(1.0 - pt) ** self.gamma * torch.log(pt)).mean()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 96), nn.BatchNorm1d(96), nn.ReLU())
        self.cls = nn.Linear(96, CLASSES)

    def forward(self, x):
        return self.cls(self.body(x))


def train(epochs=4):
    torch.manual_seed(21)
    spring = Survey(500, seed=1, noise=0.5).revise({12: 7, 188: 3, 391: 11, 440: 0})
    autumn = Survey(260, seed=2, noise=0.7).revise({9: 11, 130: 5})
    loader = DataLoader(ConcatDataset([spring, autumn]), batch_size=38, shuffle=True)
    net, criterion = Net(), FocalLoss(CLASSES)
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for epoch in range(epochs):
        losses = []
        for batch in loader:
            loss = criterion(net(batch["desc"]), batch["taxon"])
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.detach())
        print(f"[{epoch}] focal {torch.stack(losses).mean():.4f}")


train()
