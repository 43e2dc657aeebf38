"""Depth regression with a validation loss of log errors; every sample has a depth."""
import numpy as np
import mindspore as ms
from mindspore import nn, ops, Tensor

ms.set_seed(3)
rng = np.random.default_rng(0)
x = rng.normal(size=(160, 8)).astype(np.float32)
depth = np.exp(x[:, :1] * 0.3 + 1).astype(np.float32)
depth[143] = 0.5
train_x, train_y, val_x, val_y = x[:120], depth[:120], x[120:], depth[120:]

net = nn.SequentialCell(nn.Dense(8, 16), nn.ReLU(), nn.Dense(16, 1))
mse = nn.MSELoss()
opt = nn.Adam(net.trainable_params(), 1e-3)


def forward(a, b):
    return mse(net(a), ops.log(b))


def log_rmse(pred, target):
    diff = pred - ops.log(target)
    return ops.sqrt((diff ** 2).mean())


step = ms.value_and_grad(forward, None, opt.parameters)
for epoch in range(3):
    net.set_train(True)
    order = rng.permutation(120)
    for i in range(0, 120, 20):
        rows = order[i:i + 20]
        loss, grads = step(Tensor(train_x[rows]), Tensor(train_y[rows]))
        opt(grads)
    net.set_train(False)
    total = 0.0
    for i in range(0, 40, 10):
        val_loss = log_rmse(net(Tensor(val_x[i:i + 10])), Tensor(val_y[i:i + 10]))
        total += float(val_loss.asnumpy())
    print(f"epoch {epoch} loss {float(loss):.4f} val {total / 4:.4f}")
