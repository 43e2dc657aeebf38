"""A recurrence over long sequences."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(19)
rng = np.random.default_rng(20)
sequences = rng.normal(0, 1, (32, 40, 3)).astype(np.float32)
target = sequences.sum(axis=(1, 2))[:, None].astype(np.float32)


class Recurrence(nn.Cell):
    def __init__(self):
        super().__init__()
        self.enter = nn.Dense(3, 12)
        self.again = nn.Dense(12, 12)
        self.out = nn.Dense(12, 1)

    def construct(self, x):
        state = self.enter(x[:, 0])
        for t in range(1, 40):
            state = self.enter(x[:, t]) + self.again(state)
        return self.out(state)


net = Recurrence()
optimizer = nn.SGD(net.trainable_params(), learning_rate=0.05)
loss_fn = nn.MSELoss()
grad_fn = ms.value_and_grad(lambda x, y: loss_fn(net(x), y), None, optimizer.parameters)
for epoch in range(3):
    for start in range(0, 32, 8):
        loss, grads = grad_fn(Tensor(sequences[start:start + 8]), Tensor(target[start:start + 8]))
        optimizer(ops.clip_by_global_norm(grads, 0.1))
    print("epoch", epoch, "loss", float(loss))
