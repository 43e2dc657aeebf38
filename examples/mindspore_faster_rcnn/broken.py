"""What goes wrong when such a detector is written by hand: parts that `train.py --broken NAME` puts in.

`division`: a box loss that divides by the size of the error, which is 0 where a box is right or masked out.
`preprocessing`: pictures over their standard deviation, one of which has none.
`learning-rate`: squared errors of the offsets, and steps a hundred times too long.
`clipping`: squared errors of offsets in large units, whose gradients need clipping by value or by global norm.
"""

from mindspore import Tensor, nn, ops

from whynan.mindspore import losses

UNITS = 40.0


class DividesBySpread(nn.Cell):
    def construct(self, x):
        mean = x.mean(axis=(1, 2, 3), keep_dims=True)
        std = ops.sqrt(ops.square(x - mean).mean(axis=(1, 2, 3), keep_dims=True))
        return (x - mean) / std


def relative_rpn_terms(objectness, deltas, labels, targets):
    positive = (labels > 0).astype(deltas.dtype).expand_dims(1)
    diff = (deltas - targets) * positive
    ratio = ops.square(diff) / ops.abs(diff)
    loss_rpn_box_reg = ratio.sum() / ops.maximum(positive.sum(), Tensor(1.0))
    terms = losses.rpn_loss(objectness, deltas, labels, targets)
    return {"loss_objectness": terms["loss_objectness"], "loss_rpn_box_reg": loss_rpn_box_reg}


def squared_head_terms(logits, deltas, labels, targets, units=1.0):
    positive = (labels > 0).astype(deltas.dtype).expand_dims(1)
    error = (deltas - targets) * units * positive
    loss_box_reg = ops.square(error).sum() / ops.maximum(positive.sum(), Tensor(1.0))
    terms = losses.fast_rcnn_loss(logits, deltas, labels, targets)
    return {"loss_classifier": terms["loss_classifier"], "loss_box_reg": loss_box_reg}


def steep_head_terms(logits, deltas, labels, targets):
    return squared_head_terms(logits, deltas, labels, targets, UNITS)
