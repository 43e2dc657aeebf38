"""Priors: what a classifier among many negatives should say before it has learned anything."""

import math
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def focal_prior_(layer: Any, prior: float = 0.01, std: float | None = 0.01) -> Any:
    """Start a layer of sigmoid logits at the probability `prior`: bias -log((1 - prior) / prior) (Lin et al., 2017).

    Args:
        layer: a linear or convolutional layer with a bias.
        prior: the probability, in (0, 1).
        std: the standard deviation of the weights; None leaves them.

    Returns:
        The layer.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior: must be in (0, 1), is {prior}")
    if getattr(layer, "bias", None) is None:
        raise ValueError(f"layer: a {type(layer).__name__} without bias has nowhere to put a prior")
    nn.init.constant_(layer.bias, -math.log((1 - prior) / prior))
    if std is not None:
        nn.init.normal_(layer.weight, std=std)
    return layer


@torch.no_grad()
def detection_prior_(classifier: Any, regressor: Any = None, background: float = 0.99) -> None:
    """Start a softmax classifier, class 0 the background, at that prior, and a box regressor at no change.

    The background's bias is log(background (C - 1) / (1 - background)) above those of the other classes.

    Args:
        classifier: the last layer of the classes, (..., C) outputs.
        regressor: the last layer of the boxes, or None.
        background: the probability of the background, in (0, 1).
    """
    if not 0 < background < 1:
        raise ValueError(f"background: must be in (0, 1), is {background}")
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    classes = len(classifier.bias)
    if classes > 1:
        classifier.bias[0] = math.log(background * (classes - 1) / (1 - background))
    if regressor is not None:
        nn.init.normal_(regressor.weight, std=0.001)
        nn.init.zeros_(regressor.bias)
