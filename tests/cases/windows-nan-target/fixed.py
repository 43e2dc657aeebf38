"""Day-ahead price from a sliding window. Batches are cut by hand."""
import random

import numpy as np
import torch
import torch.nn as nn

random.seed(0)
torch.manual_seed(0)
torch.set_num_threads(1)
LOOKBACK = 24


def load_prices(hours=900):
    rng = np.random.default_rng(5)
    t = np.arange(hours)
    load = 10 + 3 * np.sin(t / 24 * 2 * np.pi) + rng.normal(0, .4, hours)
    price = 40 + 2.5 * load + rng.normal(0, 1, hours)
    price[611] = price[610]  # clock change
    return torch.from_numpy(load).float(), torch.from_numpy(price).float()


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(1, 32, batch_first=True)
        self.out = nn.Linear(32, 1)

    def forward(self, w):
        h, _ = self.rnn(w[..., None])
        return self.out(h[:, -1]).squeeze(-1)


load, price = load_prices()
windows = load.unfold(0, LOOKBACK, 1)[:-1]
target = price[LOOKBACK:]
mu, sd = windows.mean(), windows.std()
order = list(range(len(windows)))
model = Forecaster()
opt = torch.optim.Adam(model.parameters(), lr=0.01)
for it in range(200):
    ids = torch.tensor(random.sample(order, 32))
    w = (windows.index_select(0, ids) - mu) / sd
    y = target.index_select(0, ids)
    loss = (model(w) - y).abs().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 20 == 0:
        print(it, round(loss.item(), 3))
