"""A small Faster R-CNN: a backbone of stride 8, a region proposal network, ROI align, two heads."""

import mindspore as ms
import numpy as np
from boxes import SIZES, STRIDE, all_anchors, decode, suppress
from mindspore import Tensor, nn, ops
from scenes import CLASSES


class Standardize(nn.Cell):
    """Each picture minus its mean, over its standard deviation; a picture of one colour becomes 0."""

    def construct(self, x):
        mean = x.mean(axis=(1, 2, 3), keep_dims=True)
        std = ops.sqrt(ops.square(x - mean).mean(axis=(1, 2, 3), keep_dims=True) + 1e-6)
        return (x - mean) / std


class Backbone(nn.Cell):
    def __init__(self, width=24):
        super().__init__()
        self.stages = nn.SequentialCell(
            *[
                nn.SequentialCell(nn.Conv2d(a, b, 3, stride=2, has_bias=True), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in ((3, width // 2), (width // 2, width), (width, width))
            ]
        )

    def construct(self, x):
        return self.stages(x)


class RegionProposals(nn.Cell):
    def __init__(self, width=24):
        super().__init__()
        self.shared = nn.Conv2d(width, width, 3, has_bias=True)
        self.objectness = nn.Conv2d(width, len(SIZES), 1, has_bias=True)
        self.deltas = nn.Conv2d(width, 4 * len(SIZES), 1, has_bias=True, weight_init="zeros")

    def construct(self, features):
        """Return logits (batch, anchors) and offsets (batch, anchors, 4), in the order of `all_anchors`."""
        x = ops.relu(self.shared(features))
        batch = x.shape[0]
        return (
            self.objectness(x).transpose(0, 2, 3, 1).reshape(batch, -1),
            self.deltas(x).transpose(0, 2, 3, 1).reshape(batch, -1, 4),
        )


class Heads(nn.Cell):
    def __init__(self, width=24, hidden=48):
        super().__init__()
        self.align = ops.ROIAlign(4, 4, 1 / STRIDE, 2)
        self.hidden = nn.Dense(width * 16, hidden)
        self.classes = nn.Dense(hidden, len(CLASSES))
        self.boxes = nn.Dense(hidden, 4)

    def construct(self, features, rois):
        x = self.align(features, rois).reshape(rois.shape[0], -1)
        x = ops.relu(self.hidden(x))
        return self.classes(x), self.boxes(x)


class FasterRCNN(nn.Cell):
    def __init__(self, standardize=None):
        super().__init__()
        self.standardize = standardize or Standardize()
        self.backbone = Backbone()
        self.proposals = RegionProposals()
        self.heads = Heads()
        self.anchors = all_anchors()

    def construct(self, pictures):
        features = self.backbone(self.standardize(pictures))
        return (features, *self.proposals(features))

    def propose(self, objectness, deltas, keep=16):
        """Return the best boxes of each picture, which the heads are to look at."""
        scores, offsets = objectness.asnumpy(), deltas.asnumpy()
        found = []
        for score, offset in zip(scores, offsets):
            best = np.argsort(-score)[:48]
            boxes = decode(offset[best], self.anchors[best])
            wide = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 4
            boxes, score = boxes[wide], score[best][wide]
            found.append(boxes[suppress(boxes, score, keep=keep)])
        return found

    def look(self, features, rois):
        """Return class logits and offsets of the regions of each picture."""
        numbered = [np.concatenate([np.full((len(r), 1), i, np.float32), r], axis=1) for i, r in enumerate(rois)]
        return self.heads(features, Tensor(np.concatenate(numbered), ms.float32))
