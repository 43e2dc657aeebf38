"""A small net with BatchNorm; one picture of the set is broken."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(13)
rng = np.random.default_rng(14)
pictures = rng.random((48, 3, 12, 12)).astype(np.float32)
labels = rng.integers(0, 3, 48).astype(np.int32)
pictures[29] *= np.float32(1e30)
pictures = np.clip(pictures, 0, 1)


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, has_bias=True)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Dense(8, 3)

    def construct(self, x):
        x = ops.relu(self.norm(self.conv(x)))
        return self.head(x.mean(axis=(2, 3)))


net = Net()
net.set_train()
optimizer = nn.Momentum(net.trainable_params(), 0.01, 0.9)
loss_fn = nn.CrossEntropyLoss()
grad_fn = ms.value_and_grad(lambda x, y: loss_fn(net(x), y), None, optimizer.parameters)
for epoch in range(2):
    for start in range(0, 48, 8):
        loss, grads = grad_fn(Tensor(pictures[start:start + 8]), Tensor(labels[start:start + 8]))
        optimizer(grads)
    print("epoch", epoch, float(loss), net.norm.moving_variance.asnumpy().max())
