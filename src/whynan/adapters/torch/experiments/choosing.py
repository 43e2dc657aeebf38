"""Guards that give a chosen argument or result where an operation is undefined.

double-where: a harmless argument where the condition fails, and the result chosen by the same condition. mask-fix:
masks of the dtype's lowest finite number in place of -inf. skip-empty: what has nothing to reduce over gives 0, with a
gradient of 0.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from whynan.adapters.torch.experiments import guards
from whynan.adapters.torch.experiments.guards import Call, Guard, is_floating


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


DOUBLE_WHERE: dict[str, Guard] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "digamma", "lgamma"), _double(lambda x: x > 0, 1.0)),
    **dict.fromkeys(("acos", "asin", "atanh", "erfinv"), _double(lambda x: x.abs() < 1, 0.0)),
    **dict.fromkeys(("exp", "expm1"), _exp),
    "log1p": _double(lambda x: x > -1, 0.0), "logit": _double(lambda x: (x > 0) & (x < 1), 0.5),
    "acosh": _double(lambda x: x > 1, 2.0), "reciprocal": _double(lambda x: x != 0, 1.0),
    "rdiv": _double(lambda x: x != 0, 1.0), "div": _div, "pow": _pow, "norm": _norm,
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


def _spread(call: Call) -> Any:
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
    ok = divisor != 0
    result = call.run(torch.as_tensor(call.args[0]), torch.where(ok, divisor, torch.ones_like(divisor)))
    return torch.where(ok, result, torch.zeros_like(result))


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
    **dict.fromkeys(("std", "var"), _spread),
    **dict.fromkeys(
        ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "kl_div",
         "binary_cross_entropy_with_logits", "soft_margin_loss", "poisson_nll_loss"), _elementwise),
    "mean": guards.mean, "nanmean": _nanmean, "cross_entropy": guards.cross_entropy, "nll_loss": _nll,
    "div": _mean_by_hand,
    "softmax": guards.softmax, "log_softmax": _log_softmax, "ctc_loss": guards.ctc_loss,
}  # fmt: skip
