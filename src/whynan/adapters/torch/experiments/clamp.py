"""clamp-or-eps, larger-eps, larger-batch-or-groupnorm: operations and layers that keep clear of 0 and of infinity."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from whynan.adapters.torch.experiments.guards import (
    EXP_LIMIT,
    UNDER_ROOT,
    Call,
    Guard,
    away_from_zero,
    eps_of,
    is_floating,
)


def _log(call: Call) -> Any:
    x = call.args[0]
    return call.run(x.clamp(min=eps_of(x))) if is_floating(x) else None


def _log1p(call: Call) -> Any:
    x = call.args[0]
    return call.run(x.clamp(min=-1 + max(eps_of(x), 1e-6))) if is_floating(x) else None


def _logit(call: Call) -> Any:
    x = call.args[0]
    eps = max(eps_of(x), 1e-6)
    return torch.logit(x.clamp(eps, 1 - eps))


def _xlogy(call: Call) -> Any:
    x, y = call.args[0], call.argument(1, "other")
    return torch.xlogy(x, y.clamp(min=eps_of(y))) if is_floating(y) else None


def _binary_cross_entropy(call: Call) -> Any:
    p = call.args[0]
    eps = max(eps_of(p), 1e-6)
    return call.run(p.clamp(eps, 1 - eps))


def _sqrt(call: Call) -> Any:
    x = call.args[0]
    return call.run(x.clamp(min=0) + eps_of(x, UNDER_ROOT)) if is_floating(x) else None


def _pow(call: Call) -> Any:
    base, exponent = call.args[0], call.argument(1, "exponent")
    if not is_floating(base):
        return None
    if isinstance(exponent, torch.Tensor):
        return torch.pow(base.clamp(min=eps_of(base)), exponent)
    if exponent < 0:
        return torch.pow(away_from_zero(base), exponent)
    if exponent < 1 or exponent != int(exponent):
        return torch.pow(base.clamp(min=0) + eps_of(base, UNDER_ROOT), exponent)
    limit = (torch.finfo(base.dtype).max * 1e-3) ** (1 / exponent) if exponent else None
    return torch.pow(base.clamp(-limit, limit), exponent) if limit else None


def _rpow(call: Call) -> Any:
    exponent, base = call.args[0], call.argument(1, "other")
    return base ** exponent.clamp(max=eps_of(exponent, EXP_LIMIT)) if is_floating(exponent) else None


def _div(call: Call) -> Any:
    divisor = call.argument(1, "other")
    if not isinstance(divisor, torch.Tensor):
        return None
    return call.run(call.args[0], away_from_zero(divisor))


def _rdiv(call: Call) -> Any:
    return call.run(away_from_zero(call.args[0]))


def _norm(call: Call) -> Any:
    x = call.args[0]
    name = str(getattr(call.func, "__name__", ""))
    order = call.argument(1, "p", "ord", default=2)
    dim = call.argument(2, "dim")
    keepdim = bool(call.argument(3, "keepdim", default=False))
    if not is_floating(x) or "matrix" in name:
        return None
    if order in (2, 2.0, "fro", None):
        dims = tuple(range(x.dim())) if dim is None else dim
        total = (x * x).sum(dims, keepdim=keepdim) if x.dim() else x * x
        return torch.sqrt(total + eps_of(x, UNDER_ROOT))
    if order in (1, 1.0):
        return None
    return call.run(x + eps_of(x, UNDER_ROOT) ** 0.5)


def _cdist(call: Call) -> Any:
    a, b = call.args[0], call.argument(1, "x2")
    square = (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)
    return torch.sqrt(square + eps_of(a, UNDER_ROOT))


def _pairwise_distance(call: Call) -> Any:
    a, b = call.args[0], call.argument(1, "x2")
    keepdim = bool(call.argument(4, "keepdim", default=False))
    return torch.sqrt((a - b).square().sum(-1, keepdim=keepdim) + eps_of(a, UNDER_ROOT))


def _cosine_similarity(call: Call) -> Any:
    a, b = call.args[0], call.argument(1, "x2")
    dim = call.argument(2, "dim", default=1)
    tiny = eps_of(a, UNDER_ROOT)
    lengths = torch.sqrt((a * a).sum(dim) + tiny) * torch.sqrt((b * b).sum(dim) + tiny)
    return (a * b).sum(dim) / lengths


def _hypot(call: Call) -> Any:
    a, b = call.args[0], call.argument(1, "other")
    return torch.sqrt(a * a + b * b + eps_of(a, UNDER_ROOT)) if is_floating(a) else None


def _normalize(call: Call) -> Any:
    x = call.args[0]
    dim = call.argument(2, "dim", default=1)
    return x / torch.sqrt((x * x).sum(dim, keepdim=True) + eps_of(x, UNDER_ROOT))


def _spread(call: Call) -> Any:
    """The standard deviation or variance of at least one value, with eps under its root."""
    x = call.args[0]
    if not is_floating(x):
        return None
    dim = call.argument(1, "dim")
    if isinstance(dim, bool):
        dim = call.kwargs.get("dim")
    keepdim = bool(call.kwargs.get("keepdim", False))
    unbiased = call.kwargs.get("unbiased", call.argument(1, "unbiased") if len(call.args) == 2 else True)
    correction = call.kwargs.get("correction", 0 if unbiased is False else 1)
    dims = tuple(range(x.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = 1
    for d in dims:
        count *= x.shape[d]
    mean = x.sum(dims, keepdim=True) / max(count, 1)
    variance = (x - mean).square().sum(dims, keepdim=keepdim) / max(count - correction, 1)
    tiny = eps_of(x, UNDER_ROOT)
    mean = mean if keepdim else mean.reshape(variance.shape)
    if call.name == "std":
        return torch.sqrt(variance + tiny)
    if call.name == "std_mean":
        return torch.sqrt(variance + tiny), mean
    return (variance, mean) if call.name == "var_mean" else variance


def _arc(call: Call) -> Any:
    x = call.args[0]
    eps = 1e-3 if x.dtype in (torch.float16, torch.bfloat16) else 1e-6
    return call.run(x.clamp(-1 + eps, 1 - eps))


def _acosh(call: Call) -> Any:
    x = call.args[0]
    return call.run(x.clamp(min=1 + 1e-6))


def _atan2(call: Call) -> Any:
    y, x = call.args[0], call.argument(1, "other")
    return torch.atan2(y, torch.where((x == 0) & (y == 0), torch.full_like(x, eps_of(x)), x))


def _exp(call: Call) -> Any:
    x = call.args[0]
    return call.run(x.clamp(max=eps_of(x, EXP_LIMIT))) if is_floating(x) else None


def _cosh(call: Call) -> Any:
    x = call.args[0]
    limit = eps_of(x, EXP_LIMIT)
    return call.run(x.clamp(-limit, limit)) if is_floating(x) else None


def _finite(call: Call) -> Any:
    """Softmax and its relatives: infinite scores become the largest finite ones."""
    x = call.args[0]
    limits = torch.finfo(x.dtype)
    return call.run(x.clamp(limits.min / 2, limits.max / 2)) if is_floating(x) else None


def _bounded(call: Call) -> Any:
    """A product or difference of numbers whose product the dtype can hold."""
    limit = None
    for value in call.args:
        if is_floating(value):
            limit = torch.finfo(value.dtype).max ** 0.5 * 0.1
    if limit is None:
        return None
    bound = limit
    return call.func(*(torch.nan_to_num(v).clamp(-bound, bound) if is_floating(v) else v for v in call.args))


def _gamma(call: Call) -> Any:
    x = call.args[0]
    return call.run(x.clamp(min=eps_of(x))) if is_floating(x) else None


def _matrix(call: Call) -> Any:
    x = call.args[0]
    if not is_floating(x) or x.dim() < 2 or x.shape[-1] != x.shape[-2]:
        return None
    # Graded, so that equal eigenvalues come apart too: their derivative divides by differences.
    size = 1e-4 * (float(x.detach().abs().amax()) or 1.0)
    return call.run(x + torch.diag(torch.linspace(size, 2 * size, x.shape[-1], dtype=x.dtype, device=x.device)))


def _gaussian_nll(call: Call) -> Any:
    variance = call.argument(2, "var")
    if not is_floating(variance):
        return None
    args = list(call.args)
    if len(args) > 2:
        args[2] = variance.clamp(min=1e-6)
        return call.func(*args, **call.kwargs)
    return call.func(*args, **{**call.kwargs, "var": variance.clamp(min=1e-6)})


def _poisson_nll(call: Call) -> Any:
    x, log_input = call.args[0], call.argument(2, "log_input", default=True)
    if log_input:
        return call.func(x.clamp(max=eps_of(x, EXP_LIMIT)), *call.args[1:], **call.kwargs)
    return call.func(x.clamp(min=eps_of(x)), *call.args[1:], **call.kwargs)


def _prod(call: Call) -> Any:
    x = call.args[0]
    return call.run(away_from_zero(x)) if is_floating(x) else None


GUARDS: dict[str, Guard] = {
    **dict.fromkeys(("log", "log2", "log10"), _log),
    **dict.fromkeys(("sqrt", "rsqrt"), _sqrt),
    **dict.fromkeys(("std", "var", "std_mean", "var_mean"), _spread),
    **dict.fromkeys(("acos", "asin", "atanh", "erfinv"), _arc),
    **dict.fromkeys(("exp", "exp2", "expm1"), _exp),
    **dict.fromkeys(("cosh", "sinh"), _cosh),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp", "softmin", "logcumsumexp"), _finite),
    **dict.fromkeys(("lgamma", "digamma"), _gamma),
    **dict.fromkeys(("mul", "square", "sub", "add", "rsub"), _bounded),
    **dict.fromkeys(
        ("logdet", "slogdet", "det", "inverse", "linalg_inv", "linalg_cholesky", "cholesky", "linalg_slogdet",
         "linalg_det", "linalg_svd", "svd", "linalg_eigh", "linalg_eigvalsh"), _matrix),
    **dict.fromkeys(("prod", "cumprod"), _prod),
    "log1p": _log1p, "logit": _logit, "xlogy": _xlogy, "binary_cross_entropy": _binary_cross_entropy, "pow": _pow,
    "rpow": _rpow, "div": _div, "rdiv": _rdiv, "reciprocal": _rdiv, "remainder": _div, "fmod": _div, "norm": _norm,
    "cdist": _cdist, "hypot": _hypot, "pairwise_distance": _pairwise_distance, "cosine_similarity": _cosine_similarity,
    "normalize": _normalize, "acosh": _acosh, "atan2": _atan2, "gaussian_nll_loss": _gaussian_nll,
    "poisson_nll_loss": _poisson_nll,
}  # fmt: skip


def _close_exp(call: Call) -> Any:
    """At most 62.5, the bound that box decoding has: log(1000 / 16)."""
    x = call.args[0]
    return call.run(x.clamp(max=4.135)) if is_floating(x) else None


def _close_div(call: Call) -> Any:
    divisor = call.argument(1, "other")
    return call.run(call.args[0], away_from_zero(divisor, 1e-3)) if is_floating(divisor) else None


def _close_sqrt(call: Call) -> Any:
    x = call.args[0]
    return call.run(x.clamp(min=0) + 1e-6) if is_floating(x) else None


def _close_log(call: Call) -> Any:
    x = call.args[0]
    return call.run(x.clamp(min=1e-4)) if is_floating(x) else None


CLOSE: dict[str, Guard] = {
    **dict.fromkeys(("exp", "exp2", "expm1"), _close_exp),
    **dict.fromkeys(("log", "log2", "log10"), _close_log),
    **dict.fromkeys(("sqrt", "rsqrt"), _close_sqrt),
    "div": _close_div, "reciprocal": lambda call: call.run(away_from_zero(call.args[0], 1e-3)),
}  # fmt: skip
"""Wider margins, for where the smallest one leaves numbers that overflow further on."""


EPS = 1e-3


def _with_eps(place: int) -> Guard:
    def guard(call: Call) -> Any:
        if place < len(call.args):
            return call.func(*call.args[:place], max(float(call.args[place]), EPS), *call.args[place + 1 :])
        return call.func(*call.args, **{**call.kwargs, "eps": max(float(call.kwargs.get("eps", 0.0) or 0.0), EPS)})

    return guard


def _normalize_layer(call: Call) -> Any:
    x, dim = call.args[0], call.argument(2, "dim", default=1)
    return x / torch.sqrt((x * x).sum(dim, keepdim=True) + EPS)


def _group_norm(call: Call) -> Any:
    """Group norm with the batch norm's own weight and bias."""
    x = call.args[0]
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    channels = x.shape[1]
    groups = next((g for g in (8, 4, 2) if channels % g == 0 and channels > g), 1)
    return F.group_norm(x, groups, weight, bias, max(float(call.argument(7, "eps", default=1e-5)), 1e-5))


class GroupNormLayers:
    """While entered, each layer of batch norm runs as the group norm that `whynan.torch.layers` makes of it."""

    def __init__(self) -> None:
        self.n_applied = 0
        self.parts: set[str] = set()
        self._forward: Any = None

    def __enter__(self) -> None:
        from whynan.torch.layers import group_norm_of

        self._forward = _BatchNorm.forward

        def forward(layer: Any, x: Any) -> Any:
            self.n_applied += 1
            self.parts.add("whynan.torch.layers.replace_batch_norm")
            return group_norm_of(layer)(x)

        _BatchNorm.forward = forward

    def __exit__(self, *exception: object) -> None:
        _BatchNorm.forward = self._forward


LARGER_EPS: dict[str, Guard] = {
    "batch_norm": _with_eps(7), "layer_norm": _with_eps(4), "group_norm": _with_eps(4), "instance_norm": _with_eps(7),
    "rms_norm": _with_eps(3), "local_response_norm": _with_eps(4), "normalize": _normalize_layer,
}  # fmt: skip
GROUP_NORM: dict[str, Guard] = {"batch_norm": _group_norm, "instance_norm": _group_norm}
