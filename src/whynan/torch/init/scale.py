"""The scale of activations, layer by layer, on a batch."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class LayerScale:
    """What a layer gives for a batch: mean, standard deviation, largest absolute value, share of non-finite
    elements.
    """

    name: str
    kind: str
    mean: float
    std: float
    largest: float
    non_finite: float


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
    if not target > 0:
        raise ValueError(f"target: must be above 0, is {target}")
    layers = dict(model.named_modules())
    order = dict.fromkeys(
        entry.name for entry in activation_scale(model, *batch, **named) if isinstance(layers[entry.name], WEIGHTED)
    )
    for name in order:
        for _ in range(rounds):
            now = next(entry for entry in activation_scale(model, *batch, **named) if entry.name == name)
            if not (math.isfinite(now.std) and now.std > 1e-12) or now.non_finite or abs(now.std - target) <= tolerance:
                break
            with torch.no_grad():
                layers[name].weight.mul_(target / now.std)
    return activation_scale(model, *batch, **named)
