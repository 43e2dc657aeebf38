"""Load forecasting with weight averaging; the trainer validates once before the first epoch to catch mistakes early."""
import copy

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(44)


class DebiasedEMA:
    """Exponential moving average of the weights, corrected for its start at zero as Adam does."""

    def __init__(self, model, decay=0.98):
        self.decay, self.updates = decay, 0
        self.shadow = {k: torch.zeros_like(v) for k, v in model.named_parameters()}

    @torch.no_grad()
    def update(self, model):
        self.updates += 1
        for k, v in model.named_parameters():
            self.shadow[k].lerp_(v, 1 - self.decay)

    @torch.no_grad()
    def averaged(self, model):
        clone = copy.deepcopy(model)
        if self.updates == 0:
            return clone
        correction = 1 - self.decay ** self.updates
        for k, v in clone.named_parameters():
            v.copy_(self.shadow[k] / correction)
        return clone


class Trainer:
    def __init__(self, model, train, valid):
        self.model, self.train_loader, self.valid_loader = model, train, valid
        self.ema = DebiasedEMA(model)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    @torch.no_grad()
    def validate(self):
        model = self.ema.averaged(self.model).eval()
        total, n = 0.0, 0
        for x, y in self.valid_loader:
            total += nn.functional.l1_loss(model(x), y).item() * len(x)
            n += len(x)
        return total / n

    def fit(self, epochs):
        best = self.validate()
        print(f"sanity check: valid {best:.4f}")
        for epoch in range(epochs):
            for x, y in self.train_loader:
                loss = nn.functional.l1_loss(self.model(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.ema.update(self.model)
            valid = self.validate()
            if valid < best:
                best = valid
            print(f"epoch {epoch}: train {loss.item():.4f} valid {valid:.4f} best {best:.4f}")


def hours(n):
    x = torch.randn(n, 16)
    return TensorDataset(x, (x[:, :4].sum(1, keepdim=True) + x[:, 5:6] * x[:, 6:7]))


net = nn.Sequential(nn.Linear(16, 48), nn.SiLU(), nn.Linear(48, 1))
Trainer(net, DataLoader(hours(800), batch_size=50, shuffle=True), DataLoader(hours(200), batch_size=100)).fit(4)
