"""Operations for Keras 3 that saturate instead of leaving the numbers.

The formulas are those of `whynan.formulas`, the names those of `whynan.torch.ops`. They run on the backend that Keras
has: TensorFlow, JAX or
PyTorch. The names `axis` and `keepdims` are understood too; as in `keras.ops`, a spread has `correction=0` by default.
"""

from typing import TYPE_CHECKING

from whynan.formulas.backend import bind_all
from whynan.keras.backend import XP
from whynan.numpy import ops as parts

if TYPE_CHECKING:
    from whynan.numpy.ops import *  # noqa: F403

__all__ = parts.__all__

globals().update(bind_all(XP, parts, names={"axis": "dim", "keepdims": "keepdim"}, correction=0.0))
