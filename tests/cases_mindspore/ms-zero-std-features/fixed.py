"""Regression on sensor readings, standardised by hand."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(0)
rng = np.random.default_rng(0)
readings = rng.normal(20.0, 4.0, (128, 6)).astype(np.float32)
readings[:, 4] = 7.5
target = (readings[:, :1] * 0.3 - readings[:, 1:2] * 0.1).astype(np.float32)


class Standardize(nn.Cell):
    def __init__(self, data):
        super().__init__()
        self.mean = Tensor(data.mean(axis=0))
        self.std = Tensor(data.std(axis=0))

    def construct(self, x):
        return (x - self.mean) / (self.std + 1e-6)


net = nn.SequentialCell(nn.Dense(6, 16), nn.Tanh(), nn.Dense(16, 1))
prepare = Standardize(readings)
loss_fn = nn.MSELoss()
optimizer = nn.Adam(net.trainable_params(), learning_rate=1e-3)


def forward(x, y):
    return loss_fn(net(prepare(x)), y)


grad_fn = ms.value_and_grad(forward, None, optimizer.parameters)
for epoch in range(4):
    for start in range(0, 128, 16):
        x, y = Tensor(readings[start:start + 16]), Tensor(target[start:start + 16])
        loss, grads = grad_fn(x, y)
        optimizer(grads)
    print("epoch", epoch, "loss", float(loss))
