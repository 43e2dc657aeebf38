"""House price model with heavy-tailed labels, momentum and clipping; a few batches are very hard."""
import torch
import torch.nn as nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

torch.set_num_threads(2)
torch.manual_seed(60)


def houses(n=1200):
    x = torch.randn(n, 10)
    price = 3 + x[:, 0] + 0.5 * x[:, 1] * x[:, 2]
    price[::150] *= 1e6
    return TensorDataset(x, price)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(10, 64), nn.Linear(64, 1)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x))).squeeze(1)


data = houses()
loader = DataLoader(data, sampler=BatchSampler(RandomSampler(data), 30, drop_last=False), batch_size=None)
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.8)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=4 * len(loader))
lowest, highest = float("inf"), 0.0
for epoch in range(4):
    median = []
    for x, price in loader:
        loss = nn.functional.mse_loss(model(x), price)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        median.append(loss.item())
        lowest, highest = min(lowest, loss.item()), max(highest, loss.item())
    print(f"epoch {epoch} median loss {sorted(median)[len(median) // 2]:.4f} lowest {lowest:.4f} highest {highest:.3g}")
