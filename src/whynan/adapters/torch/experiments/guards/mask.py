"""mask-fix: masks of the dtype's lowest finite number in place of -inf."""

import math
from typing import Any

import torch

from whynan.adapters.torch.experiments.guards.parts import Call, Guard, is_floating


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


ANYWHERE: dict[str, Guard] = {
    "masked_fill": _masked_fill, "where": _where, "full": _full, "full_like": _full, "new_full": _full,
}  # fmt: skip
"""Where masks are made: on any of the user's lines."""
GUARDS: dict[str, Guard] = {
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp", "softmin"), _scores),
    "scaled_dot_product_attention": _attention, "multi_head_attention_forward": _multi_head,
}  # fmt: skip
