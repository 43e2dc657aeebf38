"""The guarded operations of `whynan.torch.ops` in place of the user's: what a diagnosis recommends to build with."""

import math
from collections.abc import Callable
from typing import Any

import torch

from whynan.adapters.torch.experiments.guards.call import Call, Guard, is_floating


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
