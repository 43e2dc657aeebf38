"""Operations that saturate instead of leaving the numbers; see docs/guarded-operations.md for what each does and
where.
"""

from whynan.torch.ops.elementwise import acos, asin, atan2, div, exp, log, log1p, pow, reciprocal, sqrt
from whynan.torch.ops.reductions import (
    logsumexp,
    masked_mean,
    mean,
    norm,
    normalize,
    softmax,
    standardize,
    std,
    var,
)

__all__ = [
    "acos",
    "asin",
    "atan2",
    "div",
    "exp",
    "log",
    "log1p",
    "logsumexp",
    "masked_mean",
    "mean",
    "norm",
    "normalize",
    "pow",
    "reciprocal",
    "softmax",
    "sqrt",
    "standardize",
    "std",
    "var",
]
