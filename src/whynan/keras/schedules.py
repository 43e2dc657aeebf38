"""Learning-rate schedules with a warm-up, from those of Keras, under the names of `whynan.torch.schedules`."""

from typing import Any

import keras

__all__ = ["Warmup", "warmup_cosine", "warmup_polynomial", "warmup_step"]


@keras.saving.register_keras_serializable(package="whynan")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up before another schedule, whose steps count from the end of the warm-up."""

    def __init__(self, after: Any, peak: float, warmup_steps: int, start_factor: float = 0.01) -> None:
        super().__init__()
        self.after, self.peak, self.warmup_steps, self.start_factor = after, peak, warmup_steps, start_factor

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        share = keras.ops.minimum(step / max(self.warmup_steps, 1), 1.0)
        rising = self.peak * (self.start_factor + (1 - self.start_factor) * share)
        later = self.after(keras.ops.maximum(step - self.warmup_steps, 0.0))
        return keras.ops.where(step < self.warmup_steps, rising, later)

    def get_config(self) -> dict[str, Any]:
        return {
            "after": keras.optimizers.schedules.serialize(self.after),
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "start_factor": self.start_factor,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Warmup":
        return cls(**{**config, "after": keras.optimizers.schedules.deserialize(config["after"])})


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, min_lr: float = 0.0, start_factor: float = 0.01
) -> Warmup:
    """Linear warm-up to `peak`, then half a cosine down to `min_lr` (`keras.optimizers.schedules.CosineDecay`)."""
    after = keras.optimizers.schedules.CosineDecay(peak, total_steps - warmup_steps, alpha=min_lr / peak)
    return Warmup(after, peak, warmup_steps, start_factor)


def warmup_polynomial(
    peak: float, warmup_steps: int, total_steps: int, power: float = 1.0, start_factor: float = 0.01
) -> Warmup:
    """Linear warm-up to `peak`, then (1 - progress)^power down to 0 (`keras.optimizers.schedules.PolynomialDecay`)."""
    after = keras.optimizers.schedules.PolynomialDecay(peak, total_steps - warmup_steps, 0.0, power)
    return Warmup(after, peak, warmup_steps, start_factor)


def warmup_step(
    peak: float, warmup_steps: int, milestones: list[int], gamma: float = 0.1, start_factor: float = 0.01
) -> Warmup:
    """Linear warm-up to `peak`, then a factor `gamma` from each milestone on (`PiecewiseConstantDecay`)."""
    values = [peak * gamma**index for index in range(len(milestones) + 1)]
    bounds = [step - warmup_steps - 1 for step in milestones]
    return Warmup(keras.optimizers.schedules.PiecewiseConstantDecay(bounds, values), peak, warmup_steps, start_factor)
