"""A variational code with a compiled training step."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

ms.set_seed(17)
rng = np.random.default_rng(18)
x = rng.normal(0, 1, (96, 10)).astype(np.float32)
x[61, 3] = 4000.0


class Coder(nn.Cell):
    def __init__(self):
        super().__init__()
        self.mean = nn.Dense(10, 3)
        self.log_var = nn.Dense(10, 3)
        self.back = nn.Dense(3, 10)

    def construct(self, x):
        mean, log_var = self.mean(x), ops.clamp(self.log_var(x), -8.0, 8.0)
        divergence = (ops.exp(log_var) + mean * mean - 1.0 - log_var).sum(axis=1).mean()
        return ((self.back(mean) - x) ** 2).mean() + 0.01 * divergence


net = Coder()
net.log_var.weight.set_data(ops.abs(net.log_var.weight) + 0.1)
optimizer = nn.Adam(net.trainable_params(), learning_rate=1e-3)
grad_fn = ms.value_and_grad(net, None, optimizer.parameters)


@ms.jit
def train_step(batch):
    loss, grads = grad_fn(batch)
    optimizer(grads)
    return loss


for epoch in range(2):
    for start in range(0, 96, 16):
        loss = train_step(Tensor(x[start:start + 16]))
    print("epoch", epoch, "loss", float(loss))
