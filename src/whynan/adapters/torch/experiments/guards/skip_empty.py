"""skip-empty: what has nothing to reduce over gives 0, with a gradient of 0."""

from typing import Any

import torch

from whynan.adapters.torch.experiments.guards import parts
from whynan.adapters.torch.experiments.guards.parts import Call, Guard, is_floating


def _spread(call: Call) -> Any:
    x = call.args[0]
    if x.numel() > 1 and call.argument(1, "dim") is None:
        return None
    from whynan.adapters.torch.experiments.guards.clamp import GUARDS as CLAMPS

    return CLAMPS[call.name](call)


def _may_count(divisor: Any) -> bool:
    """Whether a divisor may be a count or a sum of weights, of the whole batch or of each sample."""
    values = divisor.detach()
    return bool(divisor.dim() <= 1 or not values.is_floating_point() or (values == values.round()).all())


def _div(call: Call) -> Any:
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


GUARDS: dict[str, Guard] = {
    **dict.fromkeys(("std", "var"), _spread),
    **dict.fromkeys(
        ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "kl_div",
         "binary_cross_entropy_with_logits", "soft_margin_loss", "poisson_nll_loss"), _elementwise),
    "mean": parts.mean, "nanmean": _nanmean, "cross_entropy": parts.cross_entropy, "nll_loss": _nll, "div": _div,
    "softmax": parts.softmax, "log_softmax": _log_softmax, "ctc_loss": parts.ctc_loss,
}  # fmt: skip
