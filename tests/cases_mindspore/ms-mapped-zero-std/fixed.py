"""Heartbeat classes from short ECG strips, normalised in the dataset's map, Model.train in graph mode."""
import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import nn
from mindspore.train import LossMonitor, Model

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_seed(6)


class Strips:
    def __init__(self, count=160, seed=6):
        rng = np.random.default_rng(seed)
        self.label = rng.integers(0, 3, count).astype(np.int32)
        time = np.arange(40)
        self.signal = (np.sin(time / (2.0 + self.label[:, None])) + rng.normal(0, 0.3, (count, 40))).astype(np.float32)
        self.signal[71] = 0.5

    def __getitem__(self, index):
        return self.signal[index], self.label[index]

    def __len__(self):
        return len(self.label)


def normalise(signal):
    return (signal - signal.mean()) / (signal.std() + 1e-6)


data = ds.GeneratorDataset(Strips(), ["signal", "label"], shuffle=True)
data = data.map(normalise, input_columns="signal").batch(16)
net = nn.SequentialCell(nn.Dense(40, 24), nn.ReLU(), nn.Dense(24, 3))
model = Model(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"), nn.Momentum(net.trainable_params(), 0.05, 0.9))
model.train(3, data, callbacks=[LossMonitor(5)], dataset_sink_mode=False)
