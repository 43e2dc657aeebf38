"""The losses of the detector, as they are meant to be: finite for every finite input."""

from whynan.mindspore import losses


def rpn_terms(objectness, deltas, labels, targets):
    return losses.rpn_loss(objectness, deltas, labels, targets)


def head_terms(logits, deltas, labels, targets):
    return losses.fast_rcnn_loss(logits, deltas, labels, targets)
