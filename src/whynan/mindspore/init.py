"""Initialization for MindSpore: whole models, priors of detectors, and what it does to the activations."""

import math
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn
from mindspore.common.initializer import Constant, HeNormal, Normal, XavierNormal, Zero, initializer

from whynan.formulas.layers import InitReport, LayerScale, lsuv, nonlinearity_of, prior_bias, scale_of_output

__all__ = ["InitReport", "LayerScale", "activation_scale", "detection_prior_", "focal_prior", "initialize", "lsuv_",
           "prior_bias"]  # fmt: skip

WEIGHTED = (nn.Dense, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Conv1dTranspose, nn.Conv2dTranspose, nn.Conv3dTranspose)


def activation_scale(model: nn.Cell, *batch: Any) -> list[LayerScale]:
    """Run a model on a batch, as for inference, and return the scale of the output of each cell that has none inside,
    in the order of the run. In PyNative mode.

    Args:
        model: any cell.
        batch: what the model is called with.
    """
    found: list[LayerScale] = []

    def taking(name: str) -> Any:
        def take(cell: Any, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(first, Tensor) and first.is_floating_point():
                found.append(scale_of_output(name, type(cell).__name__, first.astype(mindspore.float32).asnumpy()))

        return take

    hooks = [
        cell.register_forward_hook(taking(name)) for name, cell in model.cells_and_names() if not list(cell.cells())
    ]
    training = model.training
    try:
        model.set_train(False)(*batch)
    finally:
        model.set_train(training)
        for hook in hooks:
            hook.remove()
    return found


def set_to(parameter: Any, how: Any) -> None:
    parameter.set_data(initializer(how, parameter.shape, parameter.dtype).init_data())


def weighted(model: nn.Cell) -> dict[str, Any]:
    return {name: cell for name, cell in model.cells_and_names() if isinstance(cell, WEIGHTED)}


def initialize(model: nn.Cell, *batch: Any, nonlinearity: str = "relu") -> InitReport:
    """Initialize a model in place, layer by layer, and report what it did to the scale of the activations.

    Dense and convolutional cells by Kaiming for the family of ReLU and by Xavier for tanh, sigmoid and none, biases 0;
    embeddings normal with standard deviation 1/sqrt(dimensions).

    Args:
        model: any cell.
        batch: what to call the model with for the report; none, no scales.
        nonlinearity: what follows the cells: "relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid" or
            "linear".
    """
    how = nonlinearity_of(nonlinearity)
    before = activation_scale(model, *batch) if batch else []
    done = {}
    for name, cell in weighted(model).items():
        set_to(cell.weight, HeNormal() if how == "kaiming normal" else XavierNormal())
        if cell.has_bias:
            set_to(cell.bias, Zero())
        done[name] = how
    for name, cell in model.cells_and_names():
        if isinstance(cell, nn.Embedding):
            set_to(cell.embedding_table, Normal(1 / math.sqrt(cell.embedding_size)))
            done[name] = "normal, std 1/sqrt(dimensions)"
    return InitReport(done, before, activation_scale(model, *batch) if batch else [])


def lsuv_(
    model: nn.Cell, *batch: Any, target: float = 1.0, tolerance: float = 0.1, rounds: int = 10
) -> list[LayerScale]:
    """Scale the weight of each dense and convolutional cell until its output on a batch has standard deviation
    `target` (LSUV; Mishkin & Matas, 2016), and return the scale of all cells afterwards.

    Args:
        model: any cell; weights are changed in place.
        batch: what the model is called with.
        target: the standard deviation, above 0.
        tolerance: how far from the target is near enough.
        rounds: tries for each cell.
    """

    def rescaling(cell: Any) -> Any:
        return lambda factor: cell.weight.set_data(cell.weight * factor)

    rescale = {name: rescaling(cell) for name, cell in weighted(model).items()}
    return lsuv(lambda: activation_scale(model, *batch), rescale, target, tolerance, rounds)


def focal_prior(prior: float = 0.01) -> Any:
    """Return an initializer of a bias that starts sigmoid logits at the probability `prior`."""
    return Constant(prior_bias(prior))


def detection_prior_(classifier: Any, background: float = 0.99) -> None:
    """Start a softmax classifier, class 0 the background, at that prior.

    The background's bias is log(background (C - 1) / (1 - background)) above those of the other classes.

    Args:
        classifier: the cell of the classes, with a bias.
        background: the probability of the background, in (0, 1).
    """
    bias = np.zeros(classifier.bias.shape, np.float32)
    bias[0] = prior_bias(background) + math.log(max(len(bias) - 1, 1))
    set_to(classifier.weight, Normal(0.01))
    classifier.bias.set_data(Tensor(bias, classifier.bias.dtype))
