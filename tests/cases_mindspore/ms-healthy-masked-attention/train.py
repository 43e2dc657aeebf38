"""Attention with padding masked by -inf, trained by Model in graph mode."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore.dataset import NumpySlicesDataset
from mindspore.train import LossMonitor, Model

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_seed(23)
rng = np.random.default_rng(24)
tokens = rng.normal(0, 1, (48, 6, 8)).astype(np.float32)
length = rng.integers(1, 7, 48)
mask = (np.arange(6)[None, :] < length[:, None])
y = (tokens * mask[:, :, None]).mean(axis=(1, 2))[:, None].astype(np.float32)


class Pool(nn.Cell):
    def __init__(self):
        super().__init__()
        self.score = nn.Dense(8, 1)
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Dense(8, 1)

    def construct(self, x, mask):
        score = ops.masked_fill(self.score(x).squeeze(-1), ops.logical_not(mask), float("-inf"))
        pooled = (ops.softmax(score, axis=-1).expand_dims(-1) * x).sum(axis=1)
        return self.out(self.norm(pooled))


class Loss(nn.Cell):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.mse = nn.MSELoss()

    def construct(self, x, mask, y):
        return self.mse(self.net(x, mask), y)


dataset = NumpySlicesDataset((tokens, mask, y), ["x", "mask", "y"], shuffle=True).batch(8)
net = Pool()
model = Model(Loss(net), optimizer=nn.Adam(net.trainable_params(), 1e-2))
model.train(3, dataset, callbacks=[LossMonitor(3)], dataset_sink_mode=False)
