"""Operations for MindSpore that saturate instead of leaving the numbers.

The formulas are those of `whynan.formulas`, the names those of `whynan.torch.ops`. The names `axis`, `keepdims`,
`keep_dims` and `ddof` are understood too; as in `mindspore.ops`, a spread has `ddof=0` by default.
"""

from typing import TYPE_CHECKING

from whynan.formulas.backend import bind_all
from whynan.mindspore.backend import XP
from whynan.numpy import ops as parts

if TYPE_CHECKING:
    from whynan.numpy.ops import *  # noqa: F403

__all__ = parts.__all__

globals().update(
    bind_all(
        XP,
        parts,
        names={"axis": "dim", "keepdims": "keepdim", "keep_dims": "keepdim", "ddof": "correction"},
        correction=0.0,
    )
)
