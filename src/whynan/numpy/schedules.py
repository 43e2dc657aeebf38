"""Learning-rate schedules with a warm-up, as lists of one number a step."""

from whynan.formulas.schedules import warmup_cosine, warmup_polynomial, warmup_step

__all__ = ["warmup_cosine", "warmup_polynomial", "warmup_step"]
