"""Credit scoring on tabular features; decay on weights only, as in common recipes."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(2)
CONFIG = {"lr": 0.05, "momentum": 0.0, "weight_decay": 1e-4, "batch_size": 50, "epochs": 8}


def applicants(n=1000):
    g = torch.Generator().manual_seed(61)
    x = torch.randn(n, 14, generator=g)
    risk = x[:, 0] - 0.7 * x[:, 3] + 0.5 * x[:, 5] * x[:, 6]
    return TensorDataset(x, (risk + 0.3 * torch.randn(n, generator=g) > 0.5).float())


class Scorer(nn.Module):
    def __init__(self, hidden=40):
        super().__init__()
        self.fc1 = nn.Linear(14, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 1)

    def forward(self, x):
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x))
        return self.fc3(x).squeeze(1)


def parameter_groups(model, weight_decay):
    decay = [p for n, p in model.named_parameters() if n.endswith("weight")]
    rest = [p for n, p in model.named_parameters() if n.endswith("bias")]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def train(cfg):
    torch.manual_seed(0)
    model = Scorer()
    loader = DataLoader(applicants(), batch_size=cfg["batch_size"], shuffle=True)
    optimizer = torch.optim.SGD(parameter_groups(model, cfg["weight_decay"]), lr=cfg["lr"], momentum=cfg["momentum"])
    criterion = nn.BCEWithLogitsLoss()
    for epoch in range(cfg["epochs"]):
        correct, total_loss = 0, 0.0
        for x, y in loader:
            logit = model(x)
            loss = criterion(logit, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total_loss += loss.item() * len(y)
            correct += ((logit > 0) == (y > 0.5)).sum().item()
        print(f"epoch {epoch} loss {total_loss / 1000:.4g} acc {correct / 1000:.3f}")


if __name__ == "__main__":
    train(CONFIG)
