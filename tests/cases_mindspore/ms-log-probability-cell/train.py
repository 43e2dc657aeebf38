"""A classifier with a likelihood of its own, trained by Model."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore.dataset import GeneratorDataset
from mindspore.train import Model

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(1)


class Points:
    def __init__(self, n=96):
        rng = np.random.default_rng(2)
        self.x = rng.normal(0, 1, (n, 4)).astype(np.float32)
        self.x[70] = [900.0, -700.0, 800.0, 650.0]
        self.y = (self.x[:, 0] + self.x[:, 1] > 0).astype(np.int32)
        self.y[70] = 2

    def __getitem__(self, index):
        return self.x[index], self.y[index]

    def __len__(self):
        return len(self.x)


class Classifier(nn.Cell):
    def __init__(self):
        super().__init__()
        self.body = nn.SequentialCell(nn.Dense(4, 16), nn.ReLU(), nn.Dense(16, 3))

    def construct(self, x):
        return ops.softmax(self.body(x), axis=-1)


class Likelihood(nn.Cell):
    def construct(self, probability, label):
        chosen = ops.gather_elements(probability, 1, label.expand_dims(1))
        return -ops.log(chosen).mean()


dataset = GeneratorDataset(Points(), ["x", "y"], shuffle=False).batch(16)
net = Classifier()
model = Model(net, loss_fn=Likelihood(), optimizer=nn.Momentum(net.trainable_params(), 0.05, 0.9))
model.train(3, dataset, dataset_sink_mode=False)
print("weights", float(net.body[0].weight.sum()))
