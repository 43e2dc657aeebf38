"""Streaming regression with an iterator over shards; the loop logs and re-raises anything odd."""
import logging
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

logging.basicConfig(level=logging.INFO, format="%(message)s")
torch.manual_seed(71)
torch.set_num_threads(1)


class Shards(IterableDataset):
    def __iter__(self):
        g = torch.Generator().manual_seed(5)
        for i in range(600):
            price = torch.rand((), generator=g) * 90 + 10
            volume = torch.rand(3, generator=g) * 5
            if i == 214:
                volume = torch.zeros(3)
            features = torch.cat([volume / volume.sum().clamp(min=1e-6), price.log()[None]])
            yield features, price / 50


class Loop:
    def __init__(self, model, optimizer, loader):
        self.model, self.optimizer, self.loader = model, optimizer, loader

    def check(self, loss):
        if torch.isnan(loss).any():
            raise ValueError("Loss became NaN, aborting")

    def run(self, steps):
        iterator = iter(self.loader)
        step = 0
        while step < steps:
            try:
                x, y = next(iterator)
            except StopIteration:
                iterator = iter(self.loader)
                continue
            try:
                loss = nn.functional.smooth_l1_loss(self.model(x).squeeze(1), y)
                self.check(loss)
            except ValueError:
                logging.error("step %d failed", step)
                raise
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            step += 1
            if step % 20 == 0:
                logging.info("step %d loss %.4f", step, loss.item())


model = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, 1))
Loop(model, torch.optim.Adam(model.parameters(), lr=3e-3), DataLoader(Shards(), batch_size=12)).run(60)
