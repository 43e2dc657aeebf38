import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(40)
torch.set_num_threads(2)


class Reflectance(Dataset):
    """Leaf photographs divided by a white reference; class 0 healthy, 1 mildew, 2 rust."""

    def __init__(self, n, camera, seed, size=24):
        rng = np.random.default_rng(seed)
        self.y = rng.integers(0, 3, n)
        self.x = []
        for label in self.y:
            leaf = 90 + 12 * rng.standard_normal((3, size, size))
            leaf[1] += 40
            if label == 1:
                leaf[:, ::3] += 60
            elif label == 2:
                leaf[0, :, ::4] += 80
            white = 200 + camera["spread"] * rng.standard_normal((3, size, size))
            white = np.clip(np.round(white), 0, 255)
            with np.errstate(divide="ignore"):
                self.x.append((np.clip(leaf, 1, 255) / white).astype(np.float32))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return torch.from_numpy(self.x[i]), int(self.y[i])


def conv_bn(cin, cout):
    return [nn.Conv2d(cin, cout, 3, 2, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]


class LeafNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(*conv_bn(3, 16), *conv_bn(16, 32))
        self.classify = nn.Linear(32, 3)

    def forward(self, x):
        return self.classify(self.features(x).mean(dim=(2, 3)))


def train_one_epoch(model, loader, field_loader, optimizer):
    """Supervised steps on the lab camera; frames of the field camera only adapt the BatchNorm statistics."""
    model.train()
    field, total = iter(field_loader), 0.0
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        unlabelled = next(field, None)
        if unlabelled is not None:
            with torch.no_grad():
                model(unlabelled[0])
    return total / len(loader)


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    loss = right = n = 0
    for x, y in loader:
        out = model(x)
        loss += nn.functional.cross_entropy(out, y, reduction="sum").item()
        right += (out.argmax(1) == y).sum().item()
        n += len(y)
    return loss / n, right / n


def main():
    lab, field = {"spread": 4.0}, {"spread": 48.0}
    train_loader = DataLoader(Reflectance(120, lab, 1), batch_size=12, shuffle=True)
    field_loader = DataLoader(Reflectance(60, field, 2), batch_size=6, shuffle=True)
    test_loader = DataLoader(Reflectance(40, lab, 3), batch_size=20)
    model = LeafNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(3):
        train_loss = train_one_epoch(model, train_loader, field_loader, optimizer)
        test_loss, acc = evaluate(model, test_loader)
        print(f"epoch {epoch}: train {train_loss:.4f} test {test_loss:.4f} acc {acc:.3f}")


if __name__ == "__main__":
    main()
