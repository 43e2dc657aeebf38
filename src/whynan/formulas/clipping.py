"""Clipping by what gradients were or what weights are, and accumulation, for frameworks that hand gradients around."""

from collections.abc import Callable
from typing import Any

from whynan.formulas import numbers
from whynan.formulas.backend import Array, Backend
from whynan.formulas.reductions import norm


class RunningNorm:
    """What norms of gradients usually are, and the bound that follows; `ZClip` says what the arguments mean."""

    def __init__(
        self, z: float = 2.5, alpha: float = 0.97, warmup_steps: int = 25, max_norm: float | None = None
    ) -> None:
        numbers.positive("z", z)
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha: must be in [0, 1), is {alpha}")
        if warmup_steps < 2:
            raise ValueError(f"warmup_steps: statistics need at least 2 norms, is {warmup_steps}")
        if max_norm is not None:
            numbers.positive("max_norm", max_norm)
        self.z, self.alpha, self.warmup_steps, self.max_norm = z, alpha, warmup_steps, max_norm
        self.mean: float | None = None
        self.variance = 0.0
        self.seen: list[float] = []

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


class ZClip(RunningNorm):
    """Clip by running statistics of the global norm (ZClip; Kumar et al., 2025): only norms far above the usual are
    cut.

    A norm more than `z` standard deviations above the running mean is brought to mean + z² / score * std, where score
    is how many it was above. The statistics take in the norm after clipping, and no norm that is not finite: such
    gradients stay as they are, for all to see. Waits for the device; call it outside of jit.

        clip = ZClip()
        gradients, norm = clip(gradients)

    Args:
        z: how many standard deviations are usual, above 0.
        alpha: how slowly the statistics forget, in [0, 1).
        warmup_steps: how many norms to see before clipping.
        max_norm: a bound for all steps, also those of the warm-up.
    """

    by_global_norm: Callable[[Any, float], tuple[Any, Any]]

    def __call__(self, gradients: Any) -> tuple[Any, float]:
        """Return the gradients clipped, and their norm before."""
        before = float(self.by_global_norm(gradients, 3e38)[1])
        if not before <= 3e38:
            return gradients, before
        bound = self.bound(before)
        self.take_in(before if bound is None else min(before, bound))
        if bound is not None and before > bound:
            gradients = self.by_global_norm(gradients, bound)[0]
        return gradients, before


class Accumulator:
    """Accumulate gradients over several batches, scaled as one batch of them all would be.

    The mean of means is wrong where batches differ in size: at the end of an epoch, with padding, with ignored targets.
    Here each loss is a sum (`reduction="sum"`) over `count` items, and its gradients are divided once, by all of them.

        accumulate = Accumulator()
        for batch in batches:
            accumulate.add(gradients_of_the_sum(batch), count)
        gradients = accumulate.finish()     # of the mean over all items; 0 where there were none
    """

    def __init__(self) -> None:
        self.sums: Any = None
        self.count = 0.0

    def map(self, function: Callable[..., Any], *trees: Any) -> Any:
        """Apply a function to the leaves of lists, tuples and dicts; None stays None."""
        first = trees[0]
        if isinstance(first, dict):
            return {key: self.map(function, *(tree[key] for tree in trees)) for key in first}
        if isinstance(first, list | tuple):
            return type(first)([self.map(function, *leaves) for leaves in zip(*trees, strict=True)])
        return None if first is None else function(*trees)

    def add(self, gradients: Any, count: float) -> None:
        """Add the gradients of a loss that is a sum over `count` items, which may be 0."""
        if count < 0:
            raise ValueError(f"count: must be at least 0, is {count}")
        self.sums = gradients if self.sums is None else self.map(lambda a, b: a + b, self.sums, gradients)
        self.count += float(count)

    def finish(self) -> Any:
        """Return the gradients of the mean, and begin anew; None where nothing was added."""
        sums, count = self.sums, max(self.count, 1.0)
        self.sums, self.count = None, 0.0
        return None if sums is None else self.map(lambda g: g / count, sums)


def adaptive(xp: Backend, gradient: Array, parameter: Array, clip_factor: float, eps: float, unit: int) -> Array:
    """Return a gradient whose units have at most `clip_factor` times the norm of the weight's (Brock et al., 2021).

    Args:
        gradient, parameter: of one shape.
        clip_factor: the largest ratio of norms.
        eps: the least norm that a unit's weight counts with.
        unit: the dimension that counts the units, 0 or -1; a vector is one unit.
    """
    numbers.positive("clip_factor", clip_factor)
    numbers.positive("eps", eps)
    rank = len(xp.shape(gradient))
    axes = tuple(axis for axis in range(rank) if rank < 2 or axis != unit % rank)
    (wide, weight), _ = numbers.lift(xp, gradient, parameter)
    if numbers.is_empty(xp, wide):
        return gradient
    bound = numbers.lower(xp, norm(xp, weight, axes, keepdim=True), eps) * clip_factor
    size = norm(xp, wide, axes, keepdim=True)
    # The norm of a unit with an infinite element stops at the largest number.
    broken = xp.any(~numbers.is_finite(xp, wide), axes, True)
    over = (size > bound) & ~broken
    factor = xp.where(over, bound / xp.where(over, size, 1.0), 1.0)
    return xp.cast(wide * factor, xp.dtype(gradient))
