"""A loss fed what it is not made for."""

from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import PROBABILITIES, finding, made_by, relevant

_LOGS = ("_log_softmax", "log_softmax", "log", "log_sigmoid_forward", "logsumexp", "sub", "clamp")


def find(facts: StepFacts) -> Iterator[Finding]:
    context = facts.context
    for node in relevant(context, "_log_softmax"):
        maker = made_by(context, node.inputs[0], PROBABILITIES)
        if maker is not None:
            yield finding(
                "loss-input-mismatch",
                "warning",
                f"cross-entropy takes logits and gets the output of a {maker.op.strip('_')}: gradients "
                "vanish, and the "
                "loss can't come near 0",
                node,
                cause="loss-input-mismatch",
            )
    for node in relevant(context, "binary_cross_entropy_with_logits"):
        maker = made_by(context, node.inputs[0], PROBABILITIES)
        if maker is not None:
            yield finding(
                "loss-input-mismatch",
                "warning",
                f"a loss on logits gets the output of a {maker.op.strip('_')}: leave that out before the loss",
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
