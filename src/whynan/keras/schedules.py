"""Learning-rate schedules with a warm-up, from those of Keras, under the names of `whynan.torch.schedules`."""

from collections.abc import Iterable
from typing import Any

import keras

from whynan.formulas.schedules import RangeTest, range_test

__all__ = ["RangeTest", "Warmup", "lr_range_test", "warmup_cosine", "warmup_polynomial", "warmup_step"]


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


def lr_range_test(
    model: Any,
    batches: Iterable[Any],
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    stop_factor: float = 4.0,
) -> RangeTest:
    """Train with a learning rate that rises by the same factor each step, and return what the loss did (Smith, 2017).

    It ends where the loss leaves the numbers or grows to `stop_factor` times its best. Model and optimizer are
    afterwards as they were.

        test = lr_range_test(model, dataset)
        print(test.suggestion)
        test.plot("learning-rate.svg")

    Args:
        model: compiled, with a number for a learning rate.
        batches: an iterable of (x, y), as `train_on_batch` takes them; it begins anew where it ends.
        lowest, highest: the learning rates at both ends.
        steps: how many, at least 3.
        smoothing: of the loss, in [0, 1).
        stop_factor: how far the loss may grow.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    kept = [(v, keras.ops.convert_to_numpy(v.value).copy()) for v in [*model.variables, *optimizer.variables]]

    def step(rate: float, batch: Any) -> float:
        optimizer.learning_rate = rate
        model.reset_metrics()
        loss = model.train_on_batch(*batch)
        return float(loss[0] if isinstance(loss, list | tuple) else loss)

    try:
        return range_test(step, batches, lowest, highest, steps, smoothing, stop_factor)
    finally:
        for variable, value in kept:
            variable.assign(value)
        model.reset_metrics()
