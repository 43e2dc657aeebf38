"""Mixed precision: steps that overflow are skipped, the scale comes down."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore import amp

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(21)
rng = np.random.default_rng(22)
x = rng.normal(0, 1, (64, 8)).astype(np.float32)
y = (x.sum(axis=1, keepdims=True) * 3).astype(np.float32)
net = nn.SequentialCell(nn.Dense(8, 16), nn.ReLU(), nn.Dense(16, 1))
net = amp.auto_mixed_precision(net, "O2")
optimizer = nn.Momentum(net.trainable_params(), learning_rate=0.01, momentum=0.9)
scaler = amp.DynamicLossScaler(scale_value=2.0**20, scale_factor=2, scale_window=50)
loss_fn = nn.MSELoss()


def forward(data, target):
    loss = loss_fn(net(data).astype(ms.float32), target)
    return scaler.scale(loss.astype(ms.float16)), loss


grad_fn = ms.value_and_grad(forward, None, optimizer.parameters, has_aux=True)
skipped = 0
for epoch in range(6):
    for start in range(0, 64, 16):
        (_, loss), grads = grad_fn(Tensor(x[start:start + 16]), Tensor(y[start:start + 16]))
        grads = scaler.unscale(grads)
        finite = amp.all_finite(grads)
        if finite:
            optimizer(grads)
        else:
            skipped += 1
        scaler.adjust(finite)
    print("epoch", epoch, "loss", float(loss), "scale", float(scaler.scale_value), "skipped", skipped)
