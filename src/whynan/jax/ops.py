"""Operations for JAX that saturate instead of leaving the numbers.

The formulas are those of `whynan.formulas`, the names those of `whynan.torch.ops`. NumPy's names of arguments, `axis`,
`keepdims` and `ddof`, are understood too; as there, a spread is over all elements by default, with `ddof=0`.
"""

from typing import TYPE_CHECKING

from whynan.formulas.backend import bind_all
from whynan.jax.backend import XP
from whynan.numpy import ops as parts

if TYPE_CHECKING:
    from whynan.numpy.ops import *  # noqa: F403

__all__ = parts.__all__

globals().update(
    bind_all(XP, parts, names={"axis": "dim", "keepdims": "keepdim", "ddof": "correction"}, correction=0.0)
)
