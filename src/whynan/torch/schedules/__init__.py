"""Learning-rate schedules with a warm-up, put together from PyTorch's own, and a range test."""

from whynan.torch.schedules.range_test import RangeTest, lr_range_test
from whynan.torch.schedules.warmup import warmup_cosine, warmup_polynomial, warmup_step

__all__ = ["RangeTest", "lr_range_test", "warmup_cosine", "warmup_polynomial", "warmup_step"]
