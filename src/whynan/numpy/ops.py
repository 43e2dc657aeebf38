"""Operations for NumPy that saturate instead of leaving the numbers.

The formulas are those of `whynan.formulas`, the names those of `whynan.torch.ops`. NumPy's names of arguments, `axis`,
`keepdims` and `ddof`, are understood too; as there, a spread is over all elements by default, with `ddof=0`.
"""

from functools import partial

from whynan.formulas import elementwise, reductions
from whynan.numpy.plain import part

_part = partial(part, names={"axis": "dim", "keepdims": "keepdim", "ddof": "correction"}, correction=0.0)

acos = _part(elementwise.acos)
asin = _part(elementwise.asin)
atan2 = _part(elementwise.atan2)
div = _part(elementwise.div)
exp = _part(elementwise.exp)
log = _part(elementwise.log)
log1p = _part(elementwise.log1p)
pow = _part(elementwise.pow)
reciprocal = _part(elementwise.reciprocal)
sqrt = _part(elementwise.sqrt)

logsumexp = _part(reductions.logsumexp)
masked_mean = _part(reductions.masked_mean)
mean = _part(reductions.mean)
norm = _part(reductions.norm)
normalize = _part(reductions.normalize)
softmax = _part(reductions.softmax)
standardize = _part(reductions.standardize)
std = _part(reductions.std)
var = _part(reductions.var)

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
