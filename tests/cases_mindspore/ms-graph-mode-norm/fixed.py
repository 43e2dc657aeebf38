"""Unit vectors in a graph-mode Model."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore.dataset import NumpySlicesDataset
from mindspore.train import Model

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_seed(15)
rng = np.random.default_rng(16)
x = rng.normal(0, 1, (64, 6)).astype(np.float32)
y = np.abs(x).sum(axis=1, keepdims=True).astype(np.float32)
x[37] = 0.0


class Direction(nn.Cell):
    def __init__(self):
        super().__init__()
        self.inner = nn.Dense(6, 8, has_bias=False)
        self.outer = nn.Dense(8, 1)

    def construct(self, x):
        h = self.inner(x)
        length = ops.sqrt((h * h).sum(axis=1, keepdims=True) + 1e-12)
        return self.outer(ops.tanh(h)) + length


dataset = NumpySlicesDataset((x, y), ["x", "y"], shuffle=True).batch(8)
net = Direction()
model = Model(net, loss_fn=nn.MSELoss(), optimizer=nn.Adam(net.trainable_params(), 1e-2))
model.train(3, dataset, dataset_sink_mode=False)
print("weights", float(net.outer.weight.sum()))
