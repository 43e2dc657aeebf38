"""One call of a torch function, as a guard sees it, and guards that give a chosen argument or result.

A guard takes a call and returns its guarded result, or `None` where it has nothing to guard in this call. Guards stand
by the names of the torch functions, as the user would write them at the origin's line.

double-where: a harmless argument where the condition fails, and the result chosen by the same condition. mask-fix:
masks of the dtype's lowest finite number in place of -inf. skip-empty: what has nothing to reduce over gives 0, with a
gradient of 0. `OPS`: the guarded operations of `whynan.torch.ops`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

EPS = {torch.float16: 1e-4, torch.bfloat16: 1e-7, torch.float32: 1e-7, torch.float64: 1e-12}
"""What keeps a logarithm's or divisor's argument away from 0."""
UNDER_ROOT = {torch.float16: 1e-4, torch.bfloat16: 1e-12, torch.float32: 1e-12, torch.float64: 1e-24}
EXP_LIMIT = {torch.float16: 10.0, torch.bfloat16: 80.0, torch.float32: 80.0, torch.float64: 700.0}


@dataclass
class Call:
    """A call `func(*args, **kwargs)`; `name` is the plain name: div for `a / b`, log for `x.log_()`."""

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with other arguments; what is not given stays."""
        return self.func(*args, *self.args[len(args) :], **{**self.kwargs, **kwargs})


Guard = Callable[[Call], Any]


def is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def eps_of(tensor: Any, table: dict[Any, float] = EPS) -> float:
    return table.get(tensor.dtype, table[torch.float32])


def away_from_zero(tensor: Any, eps: float | None = None) -> Any:
    """Return the tensor with its elements at least `eps` from 0, signs kept."""
    if not is_floating(tensor):
        return torch.where(tensor == 0, torch.ones_like(tensor), tensor)
    small = eps_of(tensor) if eps is None else eps
    limit = torch.full_like(tensor, small)
    return torch.where(tensor.abs() < small, torch.where(tensor < 0, -limit, limit), tensor)


_PLAIN = {
    "true_divide": "div", "divide": "div", "__truediv__": "div", "__div__": "div", "__rtruediv__": "rdiv",
    "__rdiv__": "rdiv", "__pow__": "pow", "float_power": "pow", "__rpow__": "rpow", "arccos": "acos",
    "arcsin": "asin", "arctanh": "atanh", "arccosh": "acosh", "arctan2": "atan2", "special_logit": "logit",
    "linalg_norm": "norm", "linalg_vector_norm": "norm", "vector_norm": "norm", "matrix_norm": "norm",
    "linalg_matrix_norm": "norm", "special_xlogy": "xlogy", "special_erfinv": "erfinv", "multiply": "mul",
    "__mul__": "mul", "__rmul__": "mul", "special_softmax": "softmax", "special_log_softmax": "log_softmax",
    "special_logsumexp": "logsumexp", "__itruediv__": "div_", "__ipow__": "pow_", "__imul__": "mul_",
    "__rsub__": "rsub", "__sub__": "sub", "subtract": "sub", "__add__": "add", "__radd__": "add",
    "special_exp2": "exp2", "special_expm1": "expm1", "special_log1p": "log1p", "negative": "neg", "__neg__": "neg",
}  # fmt: skip


def plain_name(func: Any) -> tuple[str, bool]:
    """Return a function's plain name, and whether it works in place."""
    name = str(getattr(func, "__name__", ""))
    name = _PLAIN.get(name, name)
    if name.endswith("_") and not name.endswith("__"):
        return _PLAIN.get(name[:-1], name[:-1]), True
    return name, False


def _named_after(name: str) -> Callable[[Guard], Guard]:
    """Note on a guard which part it puts in the operation's place, for a report to name."""

    def note(guard: Guard) -> Guard:
        guard.part = f"whynan.torch.{name}"  # type: ignore[attr-defined]
        return guard

    return note


def _unary(name: str, factor: float = 1.0) -> Guard:
    def guard(call: Call) -> Any:
        x = call.args[0]
        if not is_floating(x):
            return None
        result = getattr(_ops(), name)(x)
        return result if factor == 1.0 else result * factor

    return guard


def _ops() -> Any:
    from whynan.torch import ops

    return ops


def _binary(name: str) -> Guard:
    def guard(call: Call) -> Any:
        other = call.argument(1, "other", "exponent")
        if other is None or "rounding_mode" in call.kwargs:
            return None
        return getattr(_ops(), name)(call.args[0], other)

    return guard


def _rdiv(call: Call) -> Any:
    return _ops().div(call.argument(1, "other", default=1.0), call.args[0]) if is_floating(call.args[0]) else None


def _rsqrt(call: Call) -> Any:
    return _ops().reciprocal(_ops().sqrt(call.args[0])) if is_floating(call.args[0]) else None


def _norm(call: Call) -> Any:
    x, order = call.args[0], call.argument(1, "p", "ord", default=2)
    if not is_floating(x) or "matrix" in str(getattr(call.func, "__name__", "")) or order == 0:
        return None
    order = 2.0 if order in ("fro", None) else order
    if isinstance(order, str) or order < 0:
        return None
    return _ops().norm(x, call.argument(2, "dim"), float(order), bool(call.argument(3, "keepdim", default=False)))


def _spread(name: str) -> Guard:
    def guard(call: Call) -> Any:
        x, dim = call.args[0], call.argument(1, "dim")
        if not is_floating(x) or len(call.args) > 2:
            return None
        unbiased = call.kwargs.get("unbiased", dim if isinstance(dim, bool) else True)
        dim = call.kwargs.get("dim") if isinstance(dim, bool) else dim
        correction = call.kwargs.get("correction", 1 if unbiased else 0)
        return getattr(_ops(), name)(x, dim, float(correction), bool(call.kwargs.get("keepdim", False)))

    return guard


def _normalize(call: Call) -> Any:
    return _ops().normalize(call.args[0], call.argument(2, "dim", default=1), call.argument(1, "p", default=2.0))


def _logsumexp(call: Call) -> Any:
    return _ops().logsumexp(call.args[0], call.argument(1, "dim"), bool(call.argument(2, "keepdim", default=False)))


@_named_after("ops.softmax")
def softmax(call: Call) -> Any:
    """A row that is masked throughout is 0."""
    x = call.args[0]
    if not is_floating(x):
        return None
    return _ops().softmax(x, call.argument(1, "dim", default=-1), ~torch.isneginf(x))


OPS: dict[str, Guard] = {
    **{name: _unary(name) for name in ("log", "log1p", "sqrt", "exp", "reciprocal", "acos", "asin")},
    "log2": _unary("log", 1 / math.log(2)), "log10": _unary("log", 1 / math.log(10)),
    **{name: _binary(name) for name in ("div", "pow", "atan2")},
    **{name: _spread(name) for name in ("std", "var")},
    "rdiv": _rdiv, "rsqrt": _rsqrt, "norm": _norm, "normalize": _normalize, "logsumexp": _logsumexp,
}  # fmt: skip


@_named_after("ops.mean")
def mean(call: Call) -> Any:
    """The mean, 0 over nothing."""
    if not is_floating(call.args[0]):
        return None
    return _ops().mean(call.args[0], call.argument(1, "dim"), bool(call.argument(2, "keepdim", default=False)))


@_named_after("losses.cross_entropy")
def cross_entropy(call: Call) -> Any:
    """Cross-entropy, 0 where no target counts."""
    from whynan.torch.losses import cross_entropy as part

    given = _named(call, ("weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing"))
    target = call.argument(1, "target")
    if target is None or any(given.get(name) is not None for name in ("size_average", "reduce")):
        return None
    logits = call.args[0]
    given = {name: value for name, value in given.items() if value is not None}
    return part(logits, target, dim=1 if logits.dim() > 1 else 0, **given)


def binary_cross_entropy_with_logits(logits: Any) -> Guard:
    """Return binary cross-entropy of the logits that a call's probabilities were made of."""

    @_named_after("losses.binary_cross_entropy_with_logits")
    def guard(call: Call) -> Any:
        from whynan.torch.losses import binary_cross_entropy_with_logits as part

        given = _named(call, ("weight", "size_average", "reduce", "reduction"))
        kept = {name: given[name] for name in ("weight", "reduction") if given.get(name) is not None}
        return part(logits, call.argument(1, "target"), **kept)

    return guard


@_named_after("losses.ctc_loss")
def ctc_loss(call: Call) -> Any:
    """CTC, in which an impossible target costs nothing."""
    from whynan.torch.losses import ctc_loss as part

    given = _named(call, ("blank", "reduction"), first=4)
    return part(*call.args[:4], **given) if len(call.args) >= 4 else None


def _named(call: Call, names: tuple[str, ...], first: int = 2) -> dict[str, Any]:
    return {**dict(zip(names, call.args[first:])), **{name: call.kwargs[name] for name in names if name in call.kwargs}}


def _double(is_safe: Callable[[Any], Any], harmless: float) -> Guard:
    def guard(call: Call) -> Any:
        x = call.args[0]
        if not is_floating(x):
            return None
        ok = is_safe(x)
        result = call.run(torch.where(ok, x, torch.full_like(x, harmless)))
        return torch.where(ok, result, torch.zeros_like(result))

    return guard


def _div(call: Call) -> Any:
    divisor = call.argument(1, "other")
    if not isinstance(divisor, torch.Tensor):
        return None
    return _zero_where_undefined(call, call.args[0], divisor)


def _zero_where_undefined(call: Call, x: Any, divisor: Any) -> Any:
    ok = divisor != 0
    result = call.run(x, torch.where(ok, divisor, torch.ones_like(divisor)))
    return torch.where(ok, result, torch.zeros_like(result))


def _pow(call: Call) -> Any:
    x, exponent = call.args[0], call.argument(1, "exponent")
    if not is_floating(x):
        return None
    ok = x > 0
    result = torch.pow(torch.where(ok, x, torch.ones_like(x)), exponent)
    return torch.where(ok, result, torch.zeros_like(result))


def _norm_or_zero(call: Call) -> Any:
    x = call.args[0]
    dim = call.argument(2, "dim")
    keepdim = bool(call.argument(3, "keepdim", default=False))
    dims = tuple(range(x.dim())) if dim is None else dim
    square = (x * x).sum(dims, keepdim=keepdim)
    ok = square > 0
    return torch.where(ok, torch.sqrt(torch.where(ok, square, torch.ones_like(square))), torch.zeros_like(square))


def _exp(call: Call) -> Any:
    x = call.args[0]
    ok = x < 80
    return torch.where(ok, call.run(torch.where(ok, x, torch.zeros_like(x))), torch.zeros_like(x))


DOUBLE_WHERE: dict[str, Guard] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "digamma", "lgamma"), _double(lambda x: x > 0, 1.0)),
    **dict.fromkeys(("acos", "asin", "atanh", "erfinv"), _double(lambda x: x.abs() < 1, 0.0)),
    **dict.fromkeys(("exp", "expm1"), _exp),
    "log1p": _double(lambda x: x > -1, 0.0), "logit": _double(lambda x: (x > 0) & (x < 1), 0.5),
    "acosh": _double(lambda x: x > 1, 2.0), "reciprocal": _double(lambda x: x != 0, 1.0),
    "rdiv": _double(lambda x: x != 0, 1.0), "div": _div, "pow": _pow, "norm": _norm_or_zero,
}  # fmt: skip


def _missing(call: Call) -> Any:
    """An elementwise operation that computes with 0 where a NaN went in, and puts it back behind itself."""
    bad: Any = None
    for value in call.args:
        if is_floating(value):
            bad = torch.isnan(value) if bad is None else bad | torch.isnan(value)
    if bad is None or not bool(bad.any()):
        return None
    given = (torch.where(torch.isnan(v), torch.zeros_like(v), v) if is_floating(v) else v for v in call.args)
    result = call.func(*given, **call.kwargs)
    return torch.where(bad, torch.nan, result) if result.shape == bad.shape else None


MISSING: dict[str, Guard] = dict.fromkeys(
    ("sub", "rsub", "add", "mul", "div", "pow", "square", "abs", "exp", "log", "mse_loss", "l1_loss", "smooth_l1_loss",
     "huber_loss"), _missing)  # fmt: skip


def _lowest(tensor: Any) -> float:
    return float(torch.finfo(tensor.dtype).min) / 2


def _masked_fill(call: Call) -> Any:
    x, value = call.args[0], call.argument(2, "value")
    if not is_floating(x) or not _is_infinite(value):
        return None
    lowest = _lowest(x)
    if isinstance(value, torch.Tensor):
        value = value.clamp(lowest, -lowest)
    else:
        value = max(lowest, min(float(value), -lowest))
    return call.func(x, call.argument(1, "mask"), value)


def _is_infinite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return is_floating(value) and value.numel() == 1 and bool(torch.isinf(value))
    return isinstance(value, float) and math.isinf(value)


def _where(call: Call) -> Any:
    if len(call.args) < 3 or not any(_is_infinite(value) for value in call.args[1:3]):
        return None
    dtype = next((v.dtype for v in call.args[1:3] if is_floating(v) and v.numel() > 1), torch.float32)
    lowest = float(torch.finfo(dtype).min) / 2
    changed = [torch.as_tensor(v, dtype=dtype).clamp(lowest, -lowest) if _is_infinite(v) else v for v in call.args[1:3]]
    return torch.where(call.args[0], *changed)


def _full(call: Call) -> Any:
    value = call.argument(1, "fill_value")
    if not _is_infinite(value):
        return None
    made = call.func(*call.args, **call.kwargs)
    return made.clamp(_lowest(made), -_lowest(made)) if is_floating(made) else None


def _scores(call: Call) -> Any:
    x = call.args[0]
    return call.run(x.clamp(_lowest(x), -_lowest(x))) if is_floating(x) else None


def _attention(call: Call) -> Any:
    query = call.args[0]
    mask = call.argument(3, "attn_mask")
    if mask is None:
        return None
    lowest = _lowest(query)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)
    else:
        mask = mask.clamp(lowest, -lowest)
    if len(call.args) > 3:
        return call.func(*call.args[:3], mask, *call.args[4:], **call.kwargs)
    return call.func(*call.args, **{**call.kwargs, "attn_mask": mask})


def _multi_head(call: Call) -> Any:
    """`F.multi_head_attention_forward`: boolean masks become additive ones of the lowest finite number."""
    kwargs = dict(call.kwargs)
    dtype = call.args[0].dtype
    changed = False
    for name in ("key_padding_mask", "attn_mask"):
        mask = kwargs.get(name)
        if mask is None:
            continue
        lowest = float(torch.finfo(dtype).min) / 4  # two masks are added
        if mask.dtype == torch.bool:
            kwargs[name] = torch.zeros_like(mask, dtype=dtype).masked_fill(mask, lowest)
        else:
            kwargs[name] = mask.clamp(lowest, -lowest)
        changed = True
    return call.func(*call.args, **kwargs) if changed else None


MASKS_ANYWHERE: dict[str, Guard] = {
    "masked_fill": _masked_fill, "where": _where, "full": _full, "full_like": _full, "new_full": _full,
}  # fmt: skip
"""Where masks are made: on any of the user's lines."""
MASK_FIX: dict[str, Guard] = {
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp", "softmin"), _scores),
    "scaled_dot_product_attention": _attention, "multi_head_attention_forward": _multi_head,
}  # fmt: skip


def _spread_of_one(call: Call) -> Any:
    x = call.args[0]
    if x.numel() > 1 and call.argument(1, "dim") is None:
        return None
    from whynan.adapters.torch.experiments.clamp import GUARDS as CLAMPS

    return CLAMPS[call.name](call)


def _may_count(divisor: Any) -> bool:
    """Whether a divisor may be a count or a sum of weights, of the whole batch or of each sample."""
    values = divisor.detach()
    return bool(divisor.dim() <= 1 or not values.is_floating_point() or (values == values.round()).all())


def _mean_by_hand(call: Call) -> Any:
    divisor = call.argument(1, "other")
    if not isinstance(divisor, torch.Tensor) or not _may_count(divisor):
        return None
    return _zero_where_undefined(call, torch.as_tensor(call.args[0]), divisor)


def _nanmean(call: Call) -> Any:
    x = call.args[0]
    if not is_floating(x):
        return None
    dim, keepdim = call.argument(1, "dim"), bool(call.argument(2, "keepdim", default=False))
    dims = tuple(range(x.dim())) if dim is None else dim
    return torch.nansum(x, dims, keepdim=keepdim) / (~torch.isnan(x)).sum(dims, keepdim=keepdim).clamp(min=1)


def _nll(call: Call) -> Any:
    """The sum over the targets that count, divided by their number or weight; 0 over none."""
    target, weight = call.argument(1, "target"), call.argument(2, "weight")
    ignore = call.argument(4, "ignore_index", default=-100)
    if call.kwargs.get("reduction", "mean") != "mean" or target is None:
        return None
    counted = target != ignore
    total: Any = counted.sum() if weight is None else weight[target.clamp(min=0, max=len(weight) - 1)][counted].sum()
    given = {"weight": weight, "ignore_index": ignore, "reduction": "sum"}
    return call.func(*call.args[:2], **given) / total.clamp(min=1e-6 if weight is not None else 1)


def _elementwise(call: Call) -> Any:
    """A loss that averages over its elements."""
    x = call.args[0]
    if x.numel() or call.kwargs.get("reduction", "mean") != "mean":
        return None
    return x.sum() * 0.0


def _log_softmax(call: Call) -> Any:
    x = call.args[0]
    dim = call.argument(1, "dim", default=-1)
    dead = torch.isneginf(x).all(dim, keepdim=True)
    result = call.run(torch.where(dead, torch.zeros_like(x), x))
    return torch.where(dead, torch.zeros_like(result), result)


SKIP_EMPTY: dict[str, Guard] = {
    **dict.fromkeys(("std", "var"), _spread_of_one),
    **dict.fromkeys(
        ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "kl_div",
         "binary_cross_entropy_with_logits", "soft_margin_loss", "poisson_nll_loss"), _elementwise),
    "mean": mean, "nanmean": _nanmean, "cross_entropy": cross_entropy, "nll_loss": _nll,
    "div": _mean_by_hand,
    "softmax": softmax, "log_softmax": _log_softmax, "ctc_loss": ctc_loss,
}  # fmt: skip
