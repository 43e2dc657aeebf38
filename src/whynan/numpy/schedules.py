"""Learning-rate schedules with a warm-up, as lists of one number a step."""

from whynan.formulas.schedules import RangeTest, lr_range_test, warmup_cosine, warmup_polynomial, warmup_step

__all__ = ["RangeTest", "lr_range_test", "warmup_cosine", "warmup_polynomial", "warmup_step"]
