"""Gradient clipping that leaves non-finite gradients visible, and accumulation that scales right."""

import math
from typing import Any

import torch
from torch import Tensor

from whynan.formulas import numbers
from whynan.formulas.clipping import RunningNorm

__all__ = ["Accumulator", "ZClip", "clip_adaptive", "clip_by_global_norm", "clip_by_value"]


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
    numbers.positive("max_norm", max_norm)
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
    numbers.positive("clip_value", clip_value)
    for gradient in gradients_of(parameters):
        infinite = torch.isinf(gradient)
        kept = gradient.clone() if gradient.device.type != "cpu" or bool(infinite.any()) else None
        gradient.clamp_(-clip_value, clip_value)
        if kept is not None:
            gradient.copy_(torch.where(infinite, kept, gradient))


def unit_norm(x: Tensor) -> Tensor:
    """Return the 2-norm of each output unit, dimensions kept: over all dimensions but the first, or of a vector as a
    whole.
    """
    scale = torch.linalg.vector_norm(x, float("inf")).clamp(min=1.0)
    dims = tuple(range(1, x.dim())) if x.dim() > 1 else None
    norm = torch.linalg.vector_norm(x / scale, dim=dims, keepdim=x.dim() > 0)
    return norm * scale


@torch.no_grad()
def clip_adaptive(parameters: Parameters, clip_factor: float = 0.01, eps: float = 1e-3) -> None:
    """Adaptive gradient clipping (AGC; Brock et al., 2021): each unit's gradient is at most `clip_factor` times its
    weight, in norm.

    A unit whose gradient is not finite keeps it as it is, for all to see.

    Args:
        parameters: what `model.parameters()` gives, or one tensor; leave out the last layer, as the paper does.
        clip_factor: the largest ratio of norms, above 0.
        eps: the least norm that a unit's weight counts with, so that weights of 0 can be learned.
    """
    numbers.positive("clip_factor", clip_factor)
    numbers.positive("eps", eps)
    given = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    for parameter in given:
        if parameter.grad is None or not parameter.numel():
            continue
        wide = torch.promote_types(parameter.dtype, torch.float32)
        gradient = parameter.grad
        bound = unit_norm(parameter.detach().to(wide)).clamp(min=eps) * clip_factor
        norm = unit_norm(gradient.to(wide))
        factor = torch.where(norm > bound, bound / norm.clamp(min=torch.finfo(wide).tiny), 1.0)
        gradient.mul_(torch.where(torch.isfinite(norm), factor, 1.0).to(gradient.dtype))


class ZClip(RunningNorm):
    """Clip by running statistics of the global norm (ZClip; Kumar et al., 2025): only norms far above the usual are
    cut.

    A norm more than `z` standard deviations above the running mean is brought to mean + z² / score * std, where score
    is how many
    it was above. The statistics take in the norm after clipping, and no norm that is not finite: such gradients stay
    as they are, for all to see, and leave no trace here.

        clip = ZClip()
        loss.backward()
        norm = clip(model.parameters())
        optimizer.step()

    Args:
        z: how many standard deviations are usual, above 0.
        alpha: how slowly the statistics forget, in [0, 1).
        warmup_steps: how many norms to see before clipping.
        max_norm: a bound for all steps, also those of the warm-up.
    """

    def __call__(self, parameters: Parameters) -> Tensor:
        """Clip the gradients in place and return their norm before it. Waits for the device."""
        given = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        gradients = gradients_of(given)
        if not gradients:
            return torch.zeros(())
        norms = norms_of(gradients)
        if not bool(torch.isfinite(norms).all()):
            return norms.sum()
        total = joined(norms)
        norm = float(total)
        bound = self.bound(norm)
        if bound is not None and norm > bound:
            clip_by_global_norm(given, bound)
            norm = bound
        self.take_in(norm)
        return total


class Accumulator:
    """Accumulate gradients over several batches, scaled as one batch of them all would be.

    Dividing each loss by the number of batches is wrong where they differ in size: at the end of an epoch, with padded
    sequences,
    with ignored targets. Here each loss is a sum over `count` items, and the gradients are divided once, by all of
    them.

        accumulate = Accumulator(model.parameters())
        for batch in batches:
            loss = cross_entropy(model(batch.x), batch.y, reduction="sum")
            accumulate.backward(loss, count=int((batch.y != -100).sum()))
        accumulate.finish()     # gradients of the mean over all items; 0 where there were none
        optimizer.step()

    Args:
        parameters: what `model.parameters()` gives.
    """

    def __init__(self, parameters: Any) -> None:
        self.parameters = list(parameters)
        self.count = 0.0

    def backward(self, loss: Tensor, count: float) -> None:
        """Add the gradient of a loss that is a sum over `count` items, which may be 0."""
        if count < 0:
            raise ValueError(f"count: must be at least 0, is {count}")
        self.count += float(count)
        loss.backward()

    @torch.no_grad()
    def finish(self) -> float:
        """Divide the gradients by the number of items, which is returned, and begin anew."""
        count, self.count = self.count, 0.0
        gradients = gradients_of(self.parameters)
        if gradients:
            torch._foreach_div_(gradients, max(count, 1.0))
        return count
