"""Classifier with per-site validation; validation loss drives the scheduler."""
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

torch.manual_seed(12)
torch.set_num_threads(1)
SITES = ["berlin", "oslo", "porto"]


def make_study(n=450):
    x = torch.randn(n, 12)
    y = (x[:, :3].sum(1) > 0).long() + (x[:, 4] > 1).long()
    site = torch.randint(0, 2, (n,))
    return TensorDataset(x, y), site


def split(site):
    rows = torch.arange(len(site))
    return rows[rows % 5 != 0].tolist(), {name: rows[(rows % 5 == 0) & (site == i)].tolist() for i, name in enumerate(SITES)}


def evaluate(model, loader):
    model.eval()
    losses = []
    with torch.no_grad():
        for x, y in loader:
            losses.append(nn.functional.cross_entropy(model(x), y, reduction="none"))
    return torch.cat(losses).mean() if losses else torch.tensor(losses).mean()


def main():
    dataset, site = make_study()
    train_rows, val_rows = split(site)
    train_loader = DataLoader(Subset(dataset, train_rows), batch_size=30, shuffle=True)
    val_loaders = {name: DataLoader(Subset(dataset, rows), batch_size=64) for name, rows in val_rows.items()}
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    for epoch in range(4):
        model.train()
        for x, y in train_loader:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        val_loss = torch.stack([evaluate(model, loader) for loader in val_loaders.values() if len(loader)]).mean()
        scheduler.step(val_loss)
        print(f"epoch {epoch} train {loss.item():.4f} val {val_loss.item():.4f}")


main()
