"""A metric on pairs, a twin among them, with GradOperation."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(7)
rng = np.random.default_rng(8)
left = rng.normal(0, 1, (80, 5)).astype(np.float32)
right = rng.normal(0, 1, (80, 5)).astype(np.float32)
same = (rng.random(80) < 0.5).astype(np.float32)
right[50] = left[50]
order = np.random.default_rng(9).permutation(80)


class Pairs(nn.Cell):
    def __init__(self):
        super().__init__()
        self.embed = nn.Dense(5, 6)

    def construct(self, a, b, same):
        gap = self.embed(a) - self.embed(b)
        distance = ops.sqrt(ops.square(gap).sum(axis=1))
        near = same * distance
        far = (1 - same) * ops.relu(2.0 - distance)
        return (near + far).mean()


net = Pairs()
optimizer = nn.Momentum(net.trainable_params(), 0.02, 0.9)
grad = ops.GradOperation(get_by_list=True)(net, optimizer.parameters)
for epoch in range(3):
    for start in range(0, 80, 8):
        rows = order[start:start + 8]
        batch = Tensor(left[rows]), Tensor(right[rows]), Tensor(same[rows])
        loss = net(*batch)
        optimizer(grad(*batch))
    print("epoch", epoch, "loss", float(loss))
