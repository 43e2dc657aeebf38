"""Initialization for Keras: whole models, priors of detectors, and what it does to the activations."""

import math
from typing import Any

import keras

from whynan.formulas.layers import InitReport, LayerScale, lsuv, nonlinearity_of, prior_bias, scale_of_output
from whynan.keras.backend import XP

__all__ = ["InitReport", "LayerScale", "activation_scale", "detection_prior", "focal_prior", "initialize", "lsuv_",
           "prior_bias"]  # fmt: skip


def leaves(model: Any) -> list[Any]:
    return [layer for layer in model._flatten_layers() if not list(layer._flatten_layers(include_self=False))]


def activation_scale(model: Any, *batch: Any, **named: Any) -> list[LayerScale]:
    """Run a model on a batch, as for inference, and return the scale of the output of each layer that has none inside,
    in the order of the run.

    Args:
        model: a built model.
        batch, named: what the model is called with.
    """
    found: list[LayerScale] = []
    watched = leaves(model)

    def taking(layer: Any, call: Any) -> Any:
        def taken(*args: Any, **given: Any) -> Any:
            output = call(*args, **given)
            first = output[0] if isinstance(output, tuple | list) and output else output
            if hasattr(first, "dtype") and "float" in keras.backend.standardize_dtype(first.dtype):
                # A cell of a recurrent layer is traced; the layer itself is not.
                values = XP.to_numpy(first)
                if values is not None:
                    found.append(scale_of_output(layer.name, type(layer).__name__, values))
            return output

        return taken

    try:
        for layer in watched:
            # Not by setattr, which Keras tracks.
            layer.__dict__["call"] = taking(layer, layer.call)
        model(*batch, **{"training": False, **named})
    finally:
        for layer in watched:
            layer.__dict__.pop("call", None)
    return found


def kernels(model: Any) -> dict[str, Any]:
    kinds = keras.layers.Dense | keras.layers.EinsumDense | keras.src.layers.convolutional.base_conv.BaseConv
    return {layer.name: layer for layer in leaves(model) if isinstance(layer, kinds) and layer.built}


def initialize(model: Any, *batch: Any, nonlinearity: str = "relu", **named: Any) -> InitReport:
    """Initialize a built model in place, layer by layer, and report what it did to the scale of the activations.

    Dense and convolutional layers by Kaiming for the family of ReLU and by Xavier for tanh, sigmoid and none, biases 0;
    recurrent weights orthogonal; embeddings normal with standard deviation 1/sqrt(dimensions).

    Args:
        model: a built model.
        batch, named: what to call the model with for the report; none, no scales.
        nonlinearity: what follows the layers: "relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid" or
            "linear".
    """
    how = nonlinearity_of(nonlinearity)
    measured = bool(batch or named)
    before = activation_scale(model, *batch, **named) if measured else []
    normal = keras.initializers.HeNormal if how == "kaiming normal" else keras.initializers.GlorotNormal
    done = {}
    for name, layer in kernels(model).items():
        layer.kernel.assign(normal()(layer.kernel.shape))
        done[name] = how
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(keras.ops.zeros(layer.bias.shape))
    for layer in leaves(model):
        if hasattr(layer, "recurrent_kernel"):
            layer.kernel.assign(keras.initializers.GlorotUniform()(layer.kernel.shape))
            layer.recurrent_kernel.assign(keras.initializers.Orthogonal()(layer.recurrent_kernel.shape))
            done[layer.name] = "orthogonal"
        elif isinstance(layer, keras.layers.Embedding) and layer.built:
            std = 1 / math.sqrt(layer.output_dim)
            layer.embeddings.assign(keras.initializers.RandomNormal(stddev=std)(layer.embeddings.shape))
            done[layer.name] = "normal, std 1/sqrt(dimensions)"
    return InitReport(done, before, activation_scale(model, *batch, **named) if measured else [])


def lsuv_(
    model: Any, *batch: Any, target: float = 1.0, tolerance: float = 0.1, rounds: int = 10, **named: Any
) -> list[LayerScale]:
    """Scale the kernel of each dense and convolutional layer until its output on a batch has standard deviation
    `target` (LSUV; Mishkin & Matas, 2016), and return the scale of all layers afterwards.

    Args:
        model: a built model; kernels are changed in place.
        batch, named: what the model is called with.
        target: the standard deviation, above 0.
        tolerance: how far from the target is near enough.
        rounds: tries for each layer.
    """

    def rescaling(layer: Any) -> Any:
        return lambda factor: layer.kernel.assign(layer.kernel * factor)

    rescale = {name: rescaling(layer) for name, layer in kernels(model).items()}
    return lsuv(lambda: activation_scale(model, *batch, **named), rescale, target, tolerance, rounds)


def focal_prior(prior: float = 0.01) -> Any:
    """Return an initializer of a bias that starts sigmoid logits at the probability `prior`."""
    return keras.initializers.Constant(prior_bias(prior))


def detection_prior(background: float = 0.99) -> Any:
    """Return an initializer of the bias of a softmax, class 0 the background, that starts at this prior.

    The background's bias is log(background (C - 1) / (1 - background)) above those of the other classes.
    """
    value = prior_bias(background)

    def initializer(shape: Any, dtype: Any = None) -> Any:
        others = shape[-1] - 1
        bias = [value + math.log(max(others, 1))] + [0.0] * others
        return keras.ops.convert_to_tensor(bias, dtype or keras.config.floatx())

    return initializer
