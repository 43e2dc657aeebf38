"""One call of a torch function, as a guard sees it, and the guarded operations of `whynan.torch.ops` in its place.

A guard takes a call and returns its guarded result, or `None` where it has nothing to guard in this call. Guards stand
by the names of the torch functions, as the user would write them at the origin's line.
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
        """Return an argument by its place or one of its names."""
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
