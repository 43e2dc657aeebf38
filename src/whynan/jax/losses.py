"""Losses for JAX whose value and gradient are finite for all finite arguments.

The formulas are those of `whynan.formulas`, the names those of `whynan.torch.losses`. The class dimension is the last
one; `dim` names another.
Each gives 0 with a live gradient graph for an empty or wholly ignored target.
"""

from typing import TYPE_CHECKING

from whynan.formulas.backend import bind_all
from whynan.jax.backend import XP
from whynan.numpy import losses as parts

if TYPE_CHECKING:
    from whynan.numpy.losses import *  # noqa: F403

__all__ = parts.__all__

globals().update(bind_all(XP, parts, names={"axis": "dim"}, dim=-1))
