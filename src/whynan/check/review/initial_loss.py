"""The first loss against that of a model that knows nothing."""

import math
from collections.abc import Iterator

from whynan.check.patterns import has_mean, is_cross_entropy, log_softmaxes
from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding, relevant


def find(facts: StepFacts) -> Iterator[Finding]:
    context = facts.context
    for node in relevant(context, "nll_loss_forward", "nll_loss2d_forward"):
        shape, measured = context.node(node.inputs[0]).shape, node.measured
        if len(shape) < 2 or measured is None or node.attrs.get("reduction", 1) != 1:
            continue
        n = shape[1]
        fresh = math.log(n)
        if n > 1 and measured.hi > 3 * fresh + 1:
            yield finding(
                "initial-loss",
                "warning",
                f"the cross-entropy of the second step is {measured.hi:.3g}; a fresh model with {n} classes "
                "shows "
                f"log({n}) = {fresh:.3g}: the output layer or the inputs are too large",
                node,
                value=f"{measured.hi:.4g}",
                cause="bad-initialization",
            )
    if not any(True for _ in relevant(context, "nll_loss_forward", "nll_loss2d_forward")):
        yield from _of_compiled(facts)
    if facts.losses and not math.isfinite(facts.losses[0]):
        yield Finding("initial-loss", "error", f"the very first loss is {facts.losses[0]}", value=str(facts.losses[0]))


def _of_compiled(facts: StepFacts) -> Iterator[Finding]:
    """A graph without an operation for the loss: a mean over one logarithm of a softmax."""
    context = facts.context
    forms = list(log_softmaxes(context))
    if len(forms) != 1 or not context.graph.roots:
        return
    (form,), root = forms, context.graph.roots[-1]
    measured, fresh = context.node(root).measured, math.log(form.n)
    rows = context.node(form.logits).size // form.n
    if measured is None or not has_mean(context, root, rows) or not is_cross_entropy(context, root, form):
        return
    if measured.hi > 3 * fresh + 1:
        yield finding(
            "initial-loss",
            "warning",
            f"the loss of the first steps is {measured.hi:.3g}; a fresh model with {form.n} classes shows "
            f"log({form.n}) = {fresh:.3g}: the output layer or the inputs are too large",
            form.node,
            value=f"{measured.hi:.4g}",
            cause="bad-initialization",
        )
