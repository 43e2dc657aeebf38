"""A Model with amp level O2 and a fixed loss scale."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore.amp import FixedLossScaleManager
from mindspore.dataset import NumpySlicesDataset
from mindspore.train import Model

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(25)
rng = np.random.default_rng(26)
x = rng.normal(0, 1, (64, 8)).astype(np.float32)
y = x.sum(axis=1, keepdims=True).astype(np.float32)


class Square(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = nn.Dense(8, 16)
        self.second = nn.Dense(16, 1)

    def construct(self, x):
        h = self.first(x) * 40.0
        return self.second(h * h * h)


net = Square()
optimizer = nn.SGD(net.trainable_params(), learning_rate=1e-12, loss_scale=128.0)
model = Model(net, nn.MSELoss(), optimizer, amp_level="O3",
              loss_scale_manager=FixedLossScaleManager(128.0, drop_overflow_update=False))
dataset = NumpySlicesDataset((x, y), ["x", "y"], shuffle=False).batch(16)
model.train(2, dataset, dataset_sink_mode=False)
print("weights", float(net.first.weight.astype(ms.float32).sum()))
