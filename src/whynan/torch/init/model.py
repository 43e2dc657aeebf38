"""Initialize all layers of a model, each by its type."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from whynan.torch.init.scale import WEIGHTED, LayerScale, activation_scale

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
KAIMING = ("relu", "leaky_relu", "gelu", "silu", "elu")
XAVIER = ("tanh", "sigmoid", "linear")


@dataclass(frozen=True)
class InitReport:
    """What was done to each layer, and the scale of the activations before and after where a batch was given."""

    done: dict[str, str]
    before: list[LayerScale] = field(default_factory=list)
    after: list[LayerScale] = field(default_factory=list)

    def __str__(self) -> str:
        width = max([5, *(len(name) for name in self.done), *(len(entry.name) for entry in self.after)])
        lines = [f"{'layer':{width}}  {'std before':>10}  {'std after':>10}  initialization"]
        before = {entry.name: entry for entry in self.before}
        after = {entry.name: entry for entry in self.after}
        for name in dict.fromkeys([*after, *self.done]):
            numbers = [f"{table[name].std:10.3g}" if name in table else " " * 10 for table in (before, after)]
            lines.append(f"{name:{width}}  {numbers[0]}  {numbers[1]}  {self.done.get(name, '')}".rstrip())
        return "\n".join(lines)


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
