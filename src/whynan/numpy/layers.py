"""Normalisation for NumPy as functions of arrays."""

from functools import partial

from whynan.formulas import backend, layers
from whynan.numpy.backend import XP

layer_norm = partial(backend.bind, XP, names={"axis": "dim"})(layers.layer_norm)

__all__ = ["layer_norm"]
