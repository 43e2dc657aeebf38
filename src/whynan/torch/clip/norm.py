"""Clip gradients by value and by their global norm."""

import math
from typing import Any

import torch
from torch import Tensor

from whynan.formulas import checks

Parameters = Any


def gradients_of(parameters: Parameters) -> list[Tensor]:
    """Return the gradients that there are."""
    given = [parameters] if isinstance(parameters, torch.Tensor) else parameters
    return [p.grad for p in given if p.grad is not None]


def norms_of(gradients: list[Tensor]) -> Tensor:
    """Return the 2-norm of each gradient, in float32 or float64, of numbers of any size; NaN or Inf only where the
    gradient has one.
    """
    device = gradients[0].device
    plain = torch._foreach_norm([g.detach() for g in gradients])
    norms = torch.stack(
        [norm.to(device, torch.float32 if norm.dtype != torch.float64 else norm.dtype) for norm in plain]
    )
    if device.type == "cpu" and bool(torch.isfinite(norms).all()):
        return norms
    # What overflows is finite in parts of its largest element.
    sizes = torch.stack([torch.linalg.vector_norm(g.detach(), math.inf).to(device, norms.dtype) for g in gradients])
    parts = torch.stack(
        [
            torch.linalg.vector_norm((g.detach() / size.to(g.device).clamp(min=1.0)).to(norms.dtype)).to(device)
            for g, size in zip(gradients, sizes, strict=True)
        ]
    )
    scaled = (parts * sizes.clamp(min=1.0)).clamp(max=torch.finfo(norms.dtype).max)
    return torch.where(torch.isfinite(norms) | ~torch.isfinite(sizes), norms, scaled)


def joined(norms: Tensor) -> Tensor:
    """Return the norm of norms, without overflow; of nothing it is 0."""
    largest = norms.amax().clamp(min=torch.finfo(norms.dtype).tiny) if norms.numel() else norms.new_ones(())
    return (torch.linalg.vector_norm(norms / largest) * largest).clamp(max=torch.finfo(norms.dtype).max)


@torch.no_grad()
def clip_by_global_norm(parameters: Parameters, max_norm: float, error_if_nonfinite: bool = False) -> Tensor:
    """Scale gradients down, in place, so that together their 2-norm is at most `max_norm`.

    As `torch.nn.utils.clip_grad_norm_`, which turns all gradients into NaN or 0 where one element is not finite. Here
    the norm that
    scales is that of the gradients which are finite; one with NaN or Inf keeps it, for all to see, and spreads it to
    no other.

    Args:
        parameters: what `model.parameters()` gives, or one tensor.
        max_norm: the bound, above 0.
        error_if_nonfinite: raise RuntimeError, with the position of the gradients, before anything is changed. Waits
            for the device.

    Returns:
        The norm of all gradients before clipping: NaN or Inf where one is not finite.
    """
    checks.positive("max_norm", max_norm)
    gradients = gradients_of(parameters)
    if not gradients:
        return torch.zeros(())
    norms = norms_of(gradients)
    whole = norms.sum() if norms.device.type == "cpu" else None
    if whole is not None and math.isfinite(whole.item()) and norms.numel():
        total = joined(norms)
        scale_all(gradients, (max_norm / (total + 1e-6)).clamp(max=1.0))
        return total
    finite = torch.isfinite(norms)
    if error_if_nonfinite and not bool(finite.all()):
        positions = (~finite).nonzero().flatten().tolist()
        raise RuntimeError(f"gradients: not finite at positions {positions} of {len(gradients)} with a gradient")
    total = joined(torch.where(finite, norms, 0.0))
    scale_all(gradients, (max_norm / (total + 1e-6)).clamp(max=1.0))
    return torch.where(finite.all(), total, norms.sum())


def scale_all(gradients: list[Tensor], factor: Tensor) -> None:
    by_device: dict[Any, list[Tensor]] = {}
    for gradient in gradients:
        by_device.setdefault(gradient.device, []).append(gradient)
    for device, group in by_device.items():
        torch._foreach_mul_(group, factor.to(device))


@torch.no_grad()
def clip_by_value(parameters: Parameters, clip_value: float) -> None:
    """Clamp each element of the gradients into ±clip_value, in place. NaN and ±Inf stay as they are, for all to see.

    `torch.nn.utils.clip_grad_value_` turns an infinite gradient into ±clip_value, which hides the overflow.

    Args:
        parameters: what `model.parameters()` gives, or one tensor.
        clip_value: the bound, above 0.
    """
    checks.positive("clip_value", clip_value)
    for gradient in gradients_of(parameters):
        infinite = torch.isinf(gradient)
        kept = gradient.clone() if gradient.device.type != "cpu" or bool(infinite.any()) else None
        gradient.clamp_(-clip_value, clip_value)
        if kept is not None:
            gradient.copy_(torch.where(infinite, kept, gradient))
