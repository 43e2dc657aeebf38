"""MindSpore learns where on a photograph the coins are: a region proposal network in small.

The photograph comes with scikit-image. Each cell of a grid says whether a coin's centre is near, and where.
"""

import mindspore as ms
import numpy as np
import skimage.data
from mindspore import Tensor, nn, ops
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(1)
CROP, STRIDE = 64, 8
GRID = CROP // STRIDE


def crops(n: int, seed: int):
    """Return images, and for each cell of the grid whether a coin is near and how far its centre is, in cells."""
    photo = skimage.data.coins()
    regions = [region for region in regionprops(label(photo > threshold_otsu(photo))) if region.area >= 300]
    centres = np.array([region.centroid for region in regions])
    corners = np.random.default_rng(seed).integers(0, np.array(photo.shape) - CROP, size=(n, 2))
    cells = (np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID), indexing="ij"), -1) + 0.5) * STRIDE
    images, near, offsets = [], [], []
    for y, x in corners:
        apart = (centres - (y, x))[:, None, None] - cells
        nearest = np.abs(apart).max(-1).argmin(0)
        offset = np.take_along_axis(apart, nearest[None, ..., None], 0)[0] / STRIDE
        images.append(photo[y : y + CROP, x : x + CROP] / 255.0)
        near.append(np.abs(offset).max(-1) < 1)
        offsets.append(offset.transpose(2, 0, 1))
    return (np.stack(part).astype(np.float32) for part in ([i[None] for i in images], near, offsets))


class Proposals(nn.Cell):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = ((1, width), (width, width), (width, width))
        layers = [nn.SequentialCell(nn.Conv2d(a, b, 3, stride=2, has_bias=True), nn.ReLU()) for a, b in sizes]
        self.features = nn.SequentialCell(*layers)
        self.objectness = nn.Conv2d(width, 1, 1, has_bias=True)
        self.offsets = nn.Conv2d(width, 2, 1, has_bias=True)

    def construct(self, x):
        x = self.features(x)
        return self.objectness(x).squeeze(1), self.offsets(x)


def offset_loss(predicted, wanted, near):
    distance = ops.abs(predicted - wanted) * near.expand_dims(1)
    return (ops.square(distance) / (2 * distance)).sum() / near.sum()


net = Proposals()
optimizer = nn.Momentum(net.trainable_params(), learning_rate=0.01, momentum=0.9)


def forward(x, near, offsets):
    scores, predicted = net(x)
    ones = ops.ones_like(scores)
    return ops.binary_cross_entropy_with_logits(scores, near, ones, ones) + offset_loss(predicted, offsets, near)


gradients = ms.value_and_grad(forward, None, optimizer.parameters)
images, near, offsets = crops(96, seed=0)
for epoch in range(3):
    for start in range(0, len(images), 8):
        batch = slice(start, start + 8)
        loss, grads = gradients(Tensor(images[batch]), Tensor(near[batch]), Tensor(offsets[batch]))
        optimizer(grads)
    print(f"epoch {epoch}  loss {float(loss):.4f}", flush=True)
