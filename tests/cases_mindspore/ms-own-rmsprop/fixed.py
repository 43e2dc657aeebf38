"""Song recommendations: user and song embeddings, RMSprop written by hand."""
import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(7)
USERS, SONGS, DIM = 40, 60, 8


class Factors(nn.Cell):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(1)
        self.user = Parameter(Tensor(rng.normal(0, 0.1, (USERS, DIM)).astype(np.float32)), name="user")
        self.song = Parameter(Tensor(rng.normal(0, 0.1, (SONGS, DIM)).astype(np.float32)), name="song")

    def construct(self, u, s):
        return (ops.gather(self.user, u, 0) * ops.gather(self.song, s, 0)).sum(axis=1)


rng = np.random.default_rng(7)
users = rng.integers(0, USERS, 1200).astype(np.int32)
songs = rng.integers(0, SONGS, 1200).astype(np.int32)
taste, style = rng.normal(size=(USERS, 3)), rng.normal(size=(SONGS, 3))
plays = (taste[users] * style[songs]).sum(1).astype(np.float32)

net = Factors()
params = ms.ParameterTuple(net.trainable_params())
squares = [Parameter(ops.zeros_like(p), name=f"square_{i}") for i, p in enumerate(params)]


def rmsprop(grads, lr=0.01, rho=0.9):
    for p, g, s in zip(params, grads, squares):
        ops.assign(s, rho * s + (1 - rho) * g * g)
        ops.assign_sub(p, lr * g / (ops.sqrt(s) + 1e-8))


def forward(u, s, y):
    return ops.mse_loss(net(u, s), y)


grad_fn = ms.value_and_grad(forward, None, params)
for epoch in range(3):
    for i in range(0, 1200, 48):
        loss, grads = grad_fn(Tensor(users[i:i + 48]), Tensor(songs[i:i + 48]), Tensor(plays[i:i + 48]))
        rmsprop(grads)
    print("epoch", epoch, "mse", loss)
