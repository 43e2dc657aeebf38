"""double-where: a harmless argument where the condition fails, and the result chosen by the same condition."""

from collections.abc import Callable
from typing import Any

import torch

from whynan.adapters.torch.experiments.guards.parts import Call, Guard, is_floating


def _where(is_safe: Callable[[Any], Any], harmless: float) -> Guard:
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
    ok = divisor != 0
    result = call.run(call.args[0], torch.where(ok, divisor, torch.ones_like(divisor)))
    return torch.where(ok, result, torch.zeros_like(result))


def _pow(call: Call) -> Any:
    x, exponent = call.args[0], call.argument(1, "exponent")
    if not is_floating(x):
        return None
    ok = x > 0
    result = torch.pow(torch.where(ok, x, torch.ones_like(x)), exponent)
    return torch.where(ok, result, torch.zeros_like(result))


def _norm(call: Call) -> Any:
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


GUARDS: dict[str, Guard] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "digamma", "lgamma"), _where(lambda x: x > 0, 1.0)),
    **dict.fromkeys(("acos", "asin", "atanh", "erfinv"), _where(lambda x: x.abs() < 1, 0.0)),
    **dict.fromkeys(("exp", "expm1"), _exp),
    "log1p": _where(lambda x: x > -1, 0.0), "logit": _where(lambda x: (x > 0) & (x < 1), 0.5),
    "acosh": _where(lambda x: x > 1, 2.0), "reciprocal": _where(lambda x: x != 0, 1.0),
    "rdiv": _where(lambda x: x != 0, 1.0), "div": _div, "pow": _pow, "norm": _norm,
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
