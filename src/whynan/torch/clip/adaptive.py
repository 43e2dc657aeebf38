"""Clip gradients by the size of their weights, and by what is usual for the run."""

from typing import Any

import torch
from torch import Tensor

from whynan.formulas import checks
from whynan.torch.clip.norm import Parameters, clip_by_global_norm, gradients_of, joined, norms_of


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
    checks.positive("clip_factor", clip_factor)
    checks.positive("eps", eps)
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


class ZClip:
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

    def __init__(
        self, z: float = 2.5, alpha: float = 0.97, warmup_steps: int = 25, max_norm: float | None = None
    ) -> None:
        checks.positive("z", z)
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha: must be in [0, 1), is {alpha}")
        if warmup_steps < 2:
            raise ValueError(f"warmup_steps: statistics need at least 2 norms, is {warmup_steps}")
        if max_norm is not None:
            checks.positive("max_norm", max_norm)
        self.z, self.alpha, self.warmup_steps, self.max_norm = z, alpha, warmup_steps, max_norm
        self.mean: float | None = None
        self.variance = 0.0
        self.seen: list[float] = []

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

    def bound(self, norm: float) -> float | None:
        """Return the norm that gradients of this norm are to have, or None."""
        limit = self.max_norm
        if self.mean is not None:
            deviation = self.variance**0.5
            score = (norm - self.mean) / (deviation + 1e-6)
            if score > self.z:
                usual = self.mean + self.z / score * self.z * deviation
                limit = usual if limit is None else min(limit, usual)
        return limit if limit is None else max(limit, 1e-12)

    def take_in(self, norm: float) -> None:
        if self.mean is None:
            self.seen.append(norm)
            if len(self.seen) >= self.warmup_steps:
                self.mean = sum(self.seen) / len(self.seen)
                self.variance = sum((value - self.mean) ** 2 for value in self.seen) / len(self.seen)
                self.seen = []
            return
        self.variance = self.alpha * self.variance + (1 - self.alpha) * (norm - self.mean) ** 2
        self.mean = self.alpha * self.mean + (1 - self.alpha) * norm

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "variance": self.variance, "seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.variance, self.seen = state["mean"], state["variance"], list(state["seen"])
