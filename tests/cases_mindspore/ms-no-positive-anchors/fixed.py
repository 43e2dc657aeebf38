"""Box regression over the positive anchors of each batch."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(5)
rng = np.random.default_rng(6)
features = rng.normal(0, 1, (60, 20, 8)).astype(np.float32)
labels = (rng.random((60, 20)) < 0.2).astype(np.float32)
labels[40:44] = 0
deltas = rng.normal(0, 0.3, (60, 20, 4)).astype(np.float32)


class Head(nn.Cell):
    def __init__(self):
        super().__init__()
        self.body = nn.Dense(8, 16)
        self.score = nn.Dense(16, 1)
        self.box = nn.Dense(16, 4)

    def construct(self, x):
        x = ops.tanh(self.body(x))
        return self.score(x).squeeze(-1), self.box(x)


def rpn_loss(score, box, label, delta):
    loss_cls = ops.binary_cross_entropy_with_logits(score, label, ops.ones_like(score), ops.ones_like(score))
    distance = ops.abs(box - delta).sum(axis=-1) * label
    loss_box = distance.sum() / ops.maximum(label.sum(), Tensor(1.0))
    return loss_cls + loss_box


net = Head()
optimizer = nn.Adam(net.trainable_params(), learning_rate=2e-3)
grad_fn = ms.value_and_grad(lambda x, label, delta: rpn_loss(*net(x), label, delta), None, optimizer.parameters)
for epoch in range(2):
    for start in range(0, 60, 4):
        part = slice(start, start + 4)
        loss, grads = grad_fn(Tensor(features[part]), Tensor(labels[part]), Tensor(deltas[part]))
        optimizer(grads)
    print("epoch", epoch, float(loss))
