"""Remarks on the optimizer, its rate and its first update."""

import math
from collections.abc import Iterator

from whynan.check.ranges import SMALLEST
from whynan.check.review import StepFacts, remark
from whynan.check.suspects import Finding, Severity


@remark
def gradient_scale(facts: StepFacts) -> Iterator[Finding]:
    """The first gradient against the weights that it changes."""
    for optimizer in facts.optimizers:
        place = optimizer.place
        rate = max(optimizer.rates, default=0.0)
        if math.isnan(optimizer.gradient_norm) and not optimizer.n_parameters:
            continue  # not known
        if not math.isfinite(optimizer.gradient_norm):
            yield Finding(
                "gradient-scale",
                "error",
                f"the first gradient is {optimizer.gradient_norm}",
                line=place.line if place else None,
                file=place.file if place else None,
            )
        elif not optimizer.rates and optimizer.weight_norm > 0:
            ratio = optimizer.gradient_norm / optimizer.weight_norm
            if ratio > 0.5:
                yield Finding(
                    "gradient-scale",
                    "warning",
                    f"an update of the first steps is {ratio:.2g} of the weights: it is {optimizer.gradient_norm:.3g} "
                    f"in size, the weights {optimizer.weight_norm:.3g}",
                    value=f"{ratio:.3g}",
                    cause="learning-rate-too-high",
                    line=place.line if place else None,
                    file=place.file if place else None,
                )
        elif optimizer.kind == "SGD" and optimizer.weight_norm > 0:
            ratio = rate * optimizer.gradient_norm / optimizer.weight_norm
            if ratio > 0.5:
                yield Finding(
                    "gradient-scale",
                    "warning",
                    f"the first update is {ratio:.2g} of the weights: learning rate {rate:g} times gradient norm "
                    f"{optimizer.gradient_norm:.3g}, weights' norm {optimizer.weight_norm:.3g}",
                    value=f"{ratio:.3g}",
                    cause="learning-rate-too-high",
                    line=place.line if place else None,
                    file=place.file if place else None,
                )
        if optimizer.n_parameters and optimizer.gradient_norm == 0:
            yield Finding(
                "gradient-scale",
                "warning",
                "the first gradient is 0: nothing is learned",
                line=place.line if place else None,
                file=place.file if place else None,
            )


@remark
def learning_rate(facts: StepFacts) -> Iterator[Finding]:
    """One step of the configured length, of a tenth and a hundredth of it, tried on the recorded batch."""
    if len(facts.rate_test) < 3 or not facts.optimizers:
        return
    (_, start), *tried = facts.rate_test
    rate, loss = tried[-1]
    place = facts.optimizers[0].place
    better = [r for r, value in tried[:-1] if math.isfinite(value) and value < start]
    if (not math.isfinite(loss) or loss > 2 * abs(start) + 1e-3) and better:
        yield Finding(
            "learning-rate",
            "warning",
            f"one step of learning rate {rate:g} takes this batch's loss from {start:.3g} to {loss:.3g}; with "
            f"{better[-1]:g} it falls"
            if facts.optimizers[0].rates
            else f"one step takes this batch's loss from {start:.3g} to {loss:.3g}; {better[-1]:g} of it lowers it",
            value=f"{rate:g}",
            cause="learning-rate-too-high",
            line=place.line if place else None,
            file=place.file if place else None,
        )


@remark
def optimizer_epsilon(facts: StepFacts) -> Iterator[Finding]:
    """The optimizer's epsilon against the type of its parameters."""
    for optimizer in facts.optimizers:
        place = optimizer.place
        for eps in sorted(set(optimizer.eps)):
            if eps == 0:
                yield Finding(
                    "optimizer-eps",
                    "error",
                    f"{optimizer.kind} divides by the root of the gradients' mean square plus eps, and eps is 0: a "
                    "parameter whose gradient is 0 becomes 0 / 0",
                    value="0",
                    cause="optimizer-epsilon",
                    line=place.line if place else None,
                    file=place.file if place else None,
                )
                continue
            for dtype in optimizer.dtypes:
                if eps < SMALLEST.get(dtype, 0.0):
                    yield Finding(
                        "optimizer-eps",
                        "error",
                        f"eps {eps:g} of {optimizer.kind} is 0 in {dtype}, whose smallest number is "
                        f"{SMALLEST[dtype]:.2g}",
                        value=f"{eps:g}",
                        cause="optimizer-epsilon",
                        line=place.line if place else None,
                        file=place.file if place else None,
                    )


@remark
def warmup(facts: StepFacts) -> Iterator[Finding]:
    """The learning rate of the first steps: 0, or rising at once to many times what it began with."""
    for optimizer in facts.optimizers:
        place = optimizer.place
        rates = optimizer.later_rates
        if rates and rates[0] == 0:
            yield Finding(
                "warmup",
                "note",
                "the first step has learning rate 0: the warm-up begins at 0 and not at its first step",
                value="0",
                line=place.line if place else None,
                file=place.file if place else None,
            )
        if len(rates) >= 2 and rates[0] > 0 and rates[1] > 9 * rates[0]:
            yield Finding(
                "warmup",
                "warning",
                f"the learning rate goes from {rates[0]:g} to {rates[1]:g} in one step: is the warm-up counted in "
                "epochs where steps were meant?",
                value=f"{rates[1]:g}",
                cause="learning-rate-too-high",
                line=place.line if place else None,
                file=place.file if place else None,
            )


@remark
def weight_decay(facts: StepFacts) -> Iterator[Finding]:
    """Weight decay that takes more of a weight in one step than training puts there."""
    for optimizer in facts.optimizers:
        place = optimizer.place
        for rate, decay in zip(optimizer.rates, optimizer.decays):
            if optimizer.kind in ("Adam", "RMSprop", "Adagrad", "LBFGS") or decay <= 0:
                continue
            share = rate * decay / max(1 - optimizer.momentum, 1e-3)
            if share >= 0.1:
                severity: Severity = "error" if rate * decay >= 2 or share >= 2 else "warning"
                yield Finding(
                    "weight-decay",
                    severity,
                    f"learning rate {rate:g} times weight decay {decay:g} takes {share:.2g} of every weight each step"
                    + (": it turns their sign, and they grow" if share >= 2 else ""),
                    value=f"{share:.3g}",
                    cause="excessive-regularization",
                    line=place.line if place else None,
                    file=place.file if place else None,
                )
