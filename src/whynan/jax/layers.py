"""Normalisation for JAX as functions of arrays; `flax` and `equinox` hold the weights."""

from functools import partial

from whynan.formulas import backend, layers
from whynan.jax.backend import XP

layer_norm = partial(backend.bind, XP, names={"axis": "dim"})(layers.layer_norm)

__all__ = ["layer_norm"]
