"""A table read through a shuffled, mapped mindspore.dataset."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

import mindspore.dataset as ds

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(11)


class Table:
    def __init__(self):
        rng = np.random.default_rng(12)
        self.rows = rng.normal(50, 10, (120, 5)).astype(np.float32)
        self.price = (self.rows.mean(axis=1, keepdims=True) / 10).astype(np.float32)
        self.rows[83, 2] = np.nan
        self.rows = np.nan_to_num(self.rows, nan=50.0)

    def __getitem__(self, index):
        return self.rows[index], self.price[index]

    def __len__(self):
        return len(self.rows)


def scaled(row):
    return ((row - 50) / 10).astype(np.float32)


dataset = ds.GeneratorDataset(Table(), ["row", "price"], shuffle=True)
dataset = dataset.map(scaled, input_columns="row").batch(12)
net = nn.SequentialCell(nn.Dense(5, 16), nn.Tanh(), nn.Dense(16, 1))
optimizer = nn.Adam(net.trainable_params(), 5e-3)
loss_fn = nn.MSELoss()
grad_fn = ms.value_and_grad(lambda x, y: loss_fn(net(x), y), None, optimizer.parameters)
for epoch in range(4):
    for row, price in dataset.create_tuple_iterator():
        loss, grads = grad_fn(row, price)
        optimizer(grads)
    print("epoch", epoch, float(loss))
