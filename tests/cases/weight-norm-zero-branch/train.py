"""Residual MLP regressor with weight-normalised layers; the last layer of a branch starts at zero."""
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(10)
torch.set_num_threads(1)


class ResidualBranch(nn.Module):
    def __init__(self, width):
        super().__init__()
        first = nn.Linear(width, width)
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.first = weight_norm(first)
        self.last = weight_norm(last)

    def forward(self, x):
        h = torch.relu(self.first(x))
        return x + self.last(h)


class Regressor(nn.Module):
    def __init__(self, inputs=10, width=32, depth=3):
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.branches = nn.ModuleList([ResidualBranch(width) for _ in range(depth)])
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        x = self.stem(x)
        for branch in self.branches:
            x = branch(x)
        return self.head(x).squeeze(-1)


x = torch.randn(500, 10)
y = x[:, 0] * x[:, 1] + 0.1 * torch.randn(500)
loader = DataLoader(TensorDataset(x, y), batch_size=25, shuffle=True)
model = Regressor()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(3):
    for inputs, target in loader:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), target)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} mse {loss.item():.4f}")
