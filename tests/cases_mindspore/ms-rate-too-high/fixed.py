"""A deep regression net by TrainOneStepCell in a loop."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(4)
rng = np.random.default_rng(3)
x = rng.normal(0, 1, (64, 8)).astype(np.float32)
y = np.sin(x.sum(axis=1, keepdims=True)).astype(np.float32)

net = nn.SequentialCell(nn.Dense(8, 32), nn.ReLU(), nn.Dense(32, 32), nn.ReLU(), nn.Dense(32, 1))
train_step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), nn.SGD(net.trainable_params(), learning_rate=0.01))
train_step.set_train()
for epoch in range(6):
    for start in range(0, 64, 16):
        loss = train_step(Tensor(x[start:start + 16]), Tensor(y[start:start + 16]))
    print("epoch", epoch, "loss", float(loss))
