import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(81)
torch.set_num_threads(2)


class MishFunction(torch.autograd.Function):
    """x * tanh(softplus(x)); keeps only the input for the backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.tanh(F.softplus(x))

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        t = torch.tanh(F.softplus(x))
        slope = t + x * torch.sigmoid(x) * (1 - t * t)
        return grad_output * slope


class Mish(nn.Module):
    def forward(self, x):
        return MishFunction.apply(x)


def conv(cin, cout, stride=1):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), Mish())


class Residual(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = conv(c, c // 2), conv(c // 2, c)

    def forward(self, x):
        return x + self.b(self.a(x))


class DarkTiny(nn.Module):
    """YOLO-style backbone with a counting head."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(conv(1, 16, 2), Residual(16), conv(16, 32, 2), Residual(32))
        self.squeeze = nn.Sequential(nn.Linear(32, 32), Mish())
        self.count = nn.Linear(32, 1)

    def forward(self, x):
        x = self.stages(x).sum(dim=(2, 3))
        return self.count(self.squeeze(x)).squeeze(1)


def colonies(n=144, size=32):
    """Petri dishes; the target is the number of colonies."""
    img, k = torch.rand(n, 1, size, size) * 0.2, torch.randint(1, 30, (n,))
    for i in range(n):
        for y, x in torch.randint(1, size - 1, (int(k[i]), 2)).tolist():
            img[i, 0, y - 1:y + 1, x - 1:x + 1] = 1.0
    return TensorDataset(img, k.float())


def main():
    loader = DataLoader(colonies(), batch_size=12, shuffle=True)
    model = DarkTiny()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(4):
        error = 0.0
        for img, k in loader:
            loss = F.smooth_l1_loss(model(img), k)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            error += loss.item()
        print(f"epoch {epoch} count error {error / len(loader):.3f}")


if __name__ == "__main__":
    main()
