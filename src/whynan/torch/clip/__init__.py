"""Gradient clipping that leaves non-finite gradients visible, and accumulation that scales right."""

from whynan.torch.clip.accumulate import Accumulator
from whynan.torch.clip.adaptive import ZClip, clip_adaptive
from whynan.torch.clip.norm import clip_by_global_norm, clip_by_value

__all__ = ["Accumulator", "ZClip", "clip_adaptive", "clip_by_global_norm", "clip_by_value"]
