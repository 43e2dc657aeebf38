"""The beginning of the training scripts: row 17 of the data is all zeros, and `loss_of` takes its logarithm."""

HEAD = """
import math, os, sys
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.rand(40, 3) + 0.1
y = torch.rand(40)
x[17] = 0.0
model = nn.Linear(3, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.01)


def loss_of(xb, yb):
    weight = torch.log(xb.sum(1))  # BAD
    return ((model(xb).squeeze(1) - yb) ** 2 * weight).mean()


def update(loss):
    opt.zero_grad()
    loss.backward()
    opt.step()

"""

LOADER = """
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=False)
"""
