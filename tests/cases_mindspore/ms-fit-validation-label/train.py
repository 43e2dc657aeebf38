"""Model.fit with validation data in which a label is missing (-1)."""
import numpy as np
import mindspore as ms
import mindspore.dataset as ds
from mindspore import nn, ops
from mindspore.train import Model, LossMonitor

ms.set_seed(1)
ms.set_context(mode=ms.PYNATIVE_MODE)
rng = np.random.default_rng(0)
x = rng.normal(size=(128, 6)).astype(np.float32)
y = (np.abs(x[:, :1]) + 0.1).astype(np.float32)
y_val = y[96:].copy()
y_val[13] = -1.0


class LogLoss(nn.Cell):
    def construct(self, pred, target):
        return ((pred - ops.log(target)) ** 2).mean()


train = ds.NumpySlicesDataset((x[:96], y[:96]), shuffle=True).batch(16)
valid = ds.NumpySlicesDataset((x[96:], y_val), shuffle=False).batch(16)
net = nn.SequentialCell(nn.Dense(6, 12), nn.ReLU(), nn.Dense(12, 1))
model = Model(net, LogLoss(), nn.Momentum(net.trainable_params(), 0.01, 0.9), metrics={"loss": nn.Loss()})
model.fit(2, train, valid, callbacks=[LossMonitor(6)], dataset_sink_mode=False)
print(model.eval(valid, dataset_sink_mode=False))
