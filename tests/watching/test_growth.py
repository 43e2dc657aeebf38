"""Growth is told from a spike while it happens."""

import math

from whynan.diagnosis.growth import find_divergence
from whynan.records import OptimizerFacts
from whynan.watching import GrowthWatch


def told_at(losses: list[float]) -> list[int]:
    watch = GrowthWatch()
    return [step for step, loss in enumerate(losses) if watch.add(step, loss)]


def test_steady_growth_is_told_once_and_before_the_overflow() -> None:
    losses = [1.0] * 20 + [2.0**k for k in range(200)]
    steps = told_at(losses)
    assert len(steps) == 1
    assert losses[steps[0]] < 3.4e38


def test_a_spike_is_none() -> None:
    assert told_at([1.0] * 30 + [1e9] * 5 + [1.0] * 100) == []


def test_a_loss_that_settles_high_is_no_growth() -> None:
    assert told_at([1.0] * 30 + [2e6] * 500) == []


def test_a_loss_next_to_0_has_to_become_large() -> None:
    assert told_at([1e-12] * 30 + [1e-5 * 1.1**k for k in range(100)]) == []


def test_non_finite_losses_are_the_business_of_others() -> None:
    assert told_at([1.0] * 30 + [math.nan] * 100) == []


def test_a_decay_that_overshoots_is_told_before_the_learning_rate() -> None:
    history = {"loss": [1.96**k for k in range(60)], "lr": [0.02] * 60}
    for decay, first in ((120.0, "excessive-regularization"), (1e-4, "learning-rate-too-high")):
        found = find_divergence(history, 60, None, OptimizerFacts("SGD", lr=0.02, weight_decay=decay))
        assert found is not None and found.causes[0].slug == first
