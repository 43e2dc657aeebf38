"""Layers for Keras: batch norm that survives batches of one, layer norm over channels, group norm for batch norm."""

import math
from typing import Any

import keras

from whynan.formulas.layers import layer_norm
from whynan.keras.backend import XP

__all__ = ["BatchNormalization", "ChannelLayerNormalization", "RPNHead", "replace_batch_norm"]


@keras.saving.register_keras_serializable(package="whynan")
class ChannelLayerNormalization(keras.layers.Layer):
    """Layer norm over the last dimension, the channels of each pixel, at any spatial size and for numbers of any size.

    Args:
        epsilon: added to the variance.
    """

    def __init__(self, epsilon: float = 1e-5, **options: Any) -> None:
        super().__init__(**options)
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        self.gamma = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(input_shape[-1],), initializer="zeros", name="beta")

    def call(self, x: Any) -> Any:
        gamma, beta = (keras.ops.convert_to_tensor(w) for w in (self.gamma, self.beta))
        return layer_norm(XP, x, gamma, beta, -1, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="whynan")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` that uses the moving statistics where a batch has one value for each channel,
    or none.

    Keras takes the variance of one value for 0, which makes the output constant and draws the moving variance to 0.
    The batch has to have a known size for this, so it is for eager training (`run_eagerly=True`) and for fixed shapes.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        shape = inputs.shape
        values = None if None in shape else math.prod(shape) // max(shape[self.axis], 1)
        few = values is not None and values <= 1
        return super().call(inputs, training=False if few else training, mask=mask)


@keras.saving.register_keras_serializable(package="whynan")
class RPNHead(keras.layers.Layer):
    """Head of a region proposal network with layer norm over channels, for feature maps (N, H, W, C) of any size.

    Args:
        in_channels: channels of the feature maps.
        num_anchors: anchors at each place.
        prior: the probability of an object that the head starts with, in (0, 1).
    """

    def __init__(self, in_channels: int, num_anchors: int, prior: float = 0.01, **options: Any) -> None:
        super().__init__(**options)
        from whynan.formulas.layers import prior_bias

        self.settings = {"in_channels": in_channels, "num_anchors": num_anchors, "prior": prior}
        small = keras.initializers.RandomNormal(stddev=0.01)
        start = keras.initializers.Constant(prior_bias(prior))
        self.conv = keras.layers.Conv2D(in_channels, 3, padding="same", kernel_initializer=small)
        self.norm = ChannelLayerNormalization()
        self.objectness = keras.layers.Conv2D(num_anchors, 1, kernel_initializer=small, bias_initializer=start)
        self.deltas = keras.layers.Conv2D(num_anchors * 4, 1, kernel_initializer=small)

    def call(self, x: Any) -> tuple[Any, Any]:
        """Return objectness logits (N, H, W, A) and box deltas (N, H, W, 4 A)."""
        hidden = keras.ops.relu(self.norm(self.conv(x)))
        return self.objectness(hidden), self.deltas(hidden)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}


def replace_batch_norm(model: Any, groups: int = 32) -> Any:
    """Return a copy of a sequential or functional model with group norm in place of batch norm, other weights as they
    are.

    Args:
        model: a built model.
        groups: the most groups of a layer; there are as many as divide its channels.
    """
    if groups < 1:
        raise ValueError(f"groups: must be at least 1, is {groups}")

    def copy(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.BatchNormalization):
            return layer.__class__.from_config(layer.get_config())
        channels = layer.moving_mean.shape[0]
        return keras.layers.GroupNormalization(
            groups=math.gcd(groups, channels), axis=layer.axis, epsilon=layer.epsilon, center=layer.center,
            scale=layer.scale, name=layer.name,
        )  # fmt: skip

    replaced = keras.models.clone_model(model, clone_function=copy)
    for old, new in zip(model.layers, replaced.layers, strict=True):
        if isinstance(old, keras.layers.BatchNormalization):
            new.set_weights([w.numpy() if hasattr(w, "numpy") else w for w in old.get_weights()[: len(new.weights)]])
        elif old.weights:
            new.set_weights(old.get_weights())
    return replaced
