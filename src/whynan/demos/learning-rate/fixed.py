"""A small network fits a smooth function by plain gradient descent with momentum."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    torch.manual_seed(0)
    x = torch.rand(512, 4) * 4 - 2
    y = (x.square().sum(dim=1, keepdim=True) + torch.sin(3 * x[:, :1])) * 2
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    step = 0
    for _ in range(5):
        for inputs, targets in loader:
            loss = F.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 4 == 0:
                print(f"step {step:3}  loss {loss.item():.4g}", flush=True)
            step += 1


if __name__ == "__main__":
    main()
