"""Initialization of whole models, priors of detectors, and what it does to the activations."""

from whynan.torch.init.model import InitReport, initialize
from whynan.torch.init.prior import detection_prior_, focal_prior_
from whynan.torch.init.scale import LayerScale, activation_scale, lsuv_

__all__ = [
    "InitReport",
    "LayerScale",
    "activation_scale",
    "detection_prior_",
    "focal_prior_",
    "initialize",
    "lsuv_",
]
