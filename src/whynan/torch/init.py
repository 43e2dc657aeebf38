"""Initialization of whole models, priors of detectors, and what it does to the activations."""

import math
from typing import Any

import torch
from torch import nn

from whynan.formulas.layers import KAIMING, XAVIER, InitReport, LayerScale, lsuv

__all__ = [
    "InitReport",
    "LayerScale",
    "activation_scale",
    "detection_prior_",
    "focal_prior_",
    "initialize",
    "lsuv_",
]


WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


@torch.no_grad()
def activation_scale(model: nn.Module, *batch: Any, **named: Any) -> list[LayerScale]:
    """Run a model on a batch and return the scale of the output of each layer that has none inside, in the order of
    the run.

    The model's mode, gradients, random numbers and running statistics stay as they are.

    Args:
        model: any module.
        batch, named: what the model is called with.
    """
    found: list[LayerScale] = []
    hooks = []
    for name, layer in model.named_modules():
        if not list(layer.children()):
            hooks.append(layer.register_forward_hook(taker(name, found)))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[]):
            model(*batch, **named)
    finally:
        for hook in hooks:
            hook.remove()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return found


def taker(name: str, found: list[LayerScale]) -> Any:
    def take(layer: Any, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, torch.Tensor) and first.is_floating_point():
            found.append(scale_of_output(name, type(layer).__name__, first))

    return take


def scale_of_output(name: str, kind: str, x: torch.Tensor) -> LayerScale:
    x = x.detach().double().flatten()
    finite = x[torch.isfinite(x)]
    bad = 1 - finite.numel() / x.numel() if x.numel() else 0.0
    if not finite.numel():
        return LayerScale(name, kind, math.nan, math.nan, math.nan, bad)
    std = float(finite.std(correction=0))
    return LayerScale(name, kind, float(finite.mean()), std, float(finite.abs().max()), bad)


def lsuv_(
    model: nn.Module, *batch: Any, target: float = 1.0, tolerance: float = 0.1, rounds: int = 10, **named: Any
) -> list[LayerScale]:
    """Scale the weights of each linear and convolutional layer until its output on a batch has standard deviation
    `target`.

    Layer-sequential unit variance (Mishkin & Matas, 2016), in the order in which the layers run. A layer whose output
    is constant, or whose weight is 0 (a last layer that is to start silent), is left as it is.

    Args:
        model: any module; weights are changed in place.
        batch, named: what the model is called with.
        target: the standard deviation, above 0.
        tolerance: how far from the target is near enough.
        rounds: tries for each layer.

    Returns:
        The scale of all layers afterwards.
    """
    layers = dict(model.named_modules())

    def rescaling(layer: Any) -> Any:
        return lambda factor: layer.weight.data.mul_(factor)

    rescale = {name: rescaling(layer) for name, layer in layers.items() if isinstance(layer, WEIGHTED)}
    return lsuv(lambda: activation_scale(model, *batch, **named), rescale, target, tolerance, rounds)


NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def initialize(model: nn.Module, *batch: Any, nonlinearity: str = "relu", **named: Any) -> InitReport:
    """Initialize a model in place, layer by layer, and report what it did to the scale of the activations.

    Linear and convolutional layers by Kaiming for the family of ReLU and by Xavier for tanh, sigmoid and none, biases
    0; recurrent weights
    orthogonal, the forget gate of an LSTM open; embeddings normal with standard deviation 1/sqrt(dimensions), the
    padding 0; attention by Xavier; norms weight 1, bias 0.

    Args:
        model: any module.
        batch, named: what to call the model with for the report; none, no scales.
        nonlinearity: what follows the layers: "relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid" or
            "linear".
    """
    if nonlinearity not in KAIMING + XAVIER:
        raise ValueError(f"nonlinearity: {nonlinearity!r} is none of {', '.join(KAIMING + XAVIER)}")
    measured = bool(batch or named)
    before = activation_scale(model, *batch, **named) if measured else []
    done = {}
    for name, layer in model.named_modules():
        how = initialize_layer(layer, nonlinearity)
        if how:
            done[name] = how
    return InitReport(done, before, activation_scale(model, *batch, **named) if measured else [])


@torch.no_grad()
def initialize_layer(layer: Any, nonlinearity: str) -> str | None:
    """Initialize one layer by its type and say how; None for a layer without weights of its own."""
    if isinstance(layer, WEIGHTED) and not isinstance(layer.weight, nn.parameter.UninitializedParameter):
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if not layer.weight.numel():
            return None
        if nonlinearity in KAIMING:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="leaky_relu" if nonlinearity == "leaky_relu" else "relu")
            return "kaiming normal"
        gain = nn.init.calculate_gain(nonlinearity)
        nn.init.xavier_normal_(layer.weight, gain=gain)
        return f"xavier normal, gain {gain:.3g}"
    if isinstance(layer, nn.RNNBase):
        return initialize_recurrent(layer)
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.embedding_dim))
        if layer.padding_idx is not None:
            layer.weight[layer.padding_idx].zero_()
        return "normal, std 1/sqrt(dimensions)"
    if isinstance(layer, nn.MultiheadAttention):
        layer._reset_parameters()
        return "xavier uniform"
    if isinstance(layer, NORMS):
        if layer.weight is not None:
            nn.init.ones_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return "1 and 0"
    return None


def initialize_recurrent(layer: Any) -> str:
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    for name, weight in layer.named_parameters(recurse=False):
        if "bias" in name:
            nn.init.zeros_(weight)
            if layer.mode == "LSTM" and name.startswith("bias_ih"):
                weight[layer.hidden_size : 2 * layer.hidden_size].fill_(1.0)
        else:
            for part in weight.chunk(gates):
                nn.init.orthogonal_(part) if "hh" in name else nn.init.xavier_uniform_(part)
    return "orthogonal, forget gate 1" if layer.mode == "LSTM" else "orthogonal"


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
