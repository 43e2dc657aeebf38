"""Learning-rate schedules with a warm-up for MindSpore: lists of one number a step, as its optimizers take them."""

from whynan.formulas.schedules import warmup_cosine, warmup_polynomial, warmup_step

__all__ = ["warmup_cosine", "warmup_polynomial", "warmup_step"]
