"""A loss fed what it is not made for."""

from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.patterns import log_softmaxes, logs_of_clipped, probability_of
from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding, relevant

_LOGS = ("_log_softmax", "log_softmax", "log", "log_sigmoid_forward", "logsumexp", "sub", "clamp")


def find(facts: StepFacts) -> Iterator[Finding]:
    context = facts.context
    for form in log_softmaxes(context):
        made = probability_of(context, form.logits)
        if made is not None:
            yield finding(
                "loss-input-mismatch",
                "warning",
                f"cross-entropy takes logits and gets the output of a {made}: gradients vanish, and the loss can't "
                "come near 0",
                form.node,
                cause="loss-input-mismatch",
            )
    for clipped in logs_of_clipped(context):
        measured = context.node(clipped.source).measured
        if measured is not None and (measured.lo < -1e-3 or measured.hi > 1.001):
            yield finding(
                "loss-input-mismatch",
                "error",
                f"a cross-entropy of probabilities gets values from {measured.lo:.3g} to {measured.hi:.3g}, and clips "
                "them to [0, 1]: they look like logits (from_logits=True)",
                clipped.node,
                cause="loss-input-mismatch",
            )
    for node in relevant(context, "log1p"):
        logits = _logits_of_softplus(node, context)
        made = probability_of(context, logits) if logits is not None else None
        if made is not None:
            yield finding(
                "loss-input-mismatch",
                "warning",
                f"a loss on logits gets the output of a {made}: leave that out before the loss",
                node,
                cause="loss-input-mismatch",
            )
    for node in relevant(context, "binary_cross_entropy_with_logits"):
        made = probability_of(context, node.inputs[0])
        if made is not None:
            yield finding(
                "loss-input-mismatch",
                "warning",
                f"a loss on logits gets the output of a {made}: leave that out before the loss",
                node,
                cause="loss-input-mismatch",
            )
    for node in relevant(context, "binary_cross_entropy"):
        x = context.values[node.inputs[0]]
        if x.lo < 0 or x.hi > 1.0001:
            yield finding(
                "loss-input-mismatch",
                "error",
                "binary cross-entropy takes probabilities and gets what may lie outside of [0, 1]; for "
                "logits there "
                "is binary_cross_entropy_with_logits",
                node,
                cause="loss-input-mismatch",
            )
    for node in relevant(context, "nll_loss_forward", "nll_loss2d_forward"):
        maker = context.maker(node.inputs[0])
        measured = maker.measured
        if maker.op not in _LOGS and measured is not None and measured.hi > 0:
            yield finding(
                "loss-input-mismatch",
                "error",
                f"negative log-likelihood takes log-probabilities and gets {maker.op} with values up to "
                f"{measured.hi:.3g}: log_softmax is missing",
                node,
                cause="loss-input-mismatch",
            )


def _logits_of_softplus(node: Node, context: Context) -> int | None:
    """Return x of log1p(exp(-|x|)), which a binary cross-entropy on logits is made of."""
    exp = context.maker(node.inputs[0])
    if exp.op != "exp":
        return None
    inner = context.maker(exp.inputs[0])
    for _ in range(4):
        if inner.op not in ("neg", "abs", "sub") or not inner.inputs:
            break
        operand = next((i for i in inner.inputs if context.number(i) is None), inner.inputs[0])
        if inner.op in ("neg", "abs", "sub") and context.maker(operand).op not in ("neg", "abs", "sub"):
            return operand
        inner = context.maker(operand)
    return None
