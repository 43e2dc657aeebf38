"""The bias of a prior."""

import math


def prior_bias(prior: float) -> float:
    """Return -log((1 - prior) / prior), the logit of a probability in (0, 1) (Lin et al., 2017)."""
    if not 0 < prior < 1:
        raise ValueError(f"prior: must be in (0, 1), is {prior}")
    return -math.log((1 - prior) / prior)
