"""Remarks on the loss, its labels and its scale."""

import math
from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.graph import Node, is_float
from whynan.check.review import (
    LogSoftmax,
    StepFacts,
    finding,
    has_mean,
    is_cross_entropy,
    log_softmaxes,
    logs_of_clipped,
    probability_of,
    relevant,
    remark,
)
from whynan.check.suspects import Finding

_NAMES = {"square": "a squared error", "integer_pow": "a squared error", "pow": "a squared error", "abs": "an error"}

_LOGS = ("_log_softmax", "log_softmax", "log", "log_sigmoid_forward", "logsumexp", "sub", "clamp")


@remark
def class_indices(facts: StepFacts) -> Iterator[Finding]:
    """A regression loss on class indices."""
    context = facts.context
    for node, operand in _regressions(context):
        target = context.maker(operand)
        measured = target.measured
        if is_float(target.dtype) or target.dtype == "bool" or measured is None:
            continue
        if measured.lo >= 0 and 2 <= measured.hi <= 1000:
            yield finding(
                "regression-on-classes",
                "note",
                f"{_NAMES.get(node.op, node.op)} gets whole numbers {measured.lo:g} to {measured.hi:g} for its target: "
                "are they classes? A regression takes class 2 to lie between 1 and 3",
                node,
                cause="loss-input-mismatch",
            )


def _regressions(context: Context) -> Iterator[tuple[Node, int]]:
    """Yield each regression with its target; a square of a difference is one too."""
    for node in relevant(context, "mse_loss", "smooth_l1_loss", "huber_loss"):
        yield node, node.inputs[1]
    for node in relevant(context, "square", "integer_pow", "pow", "abs"):
        if node.op == "integer_pow" and node.attrs.get("y") != 2:
            continue
        inner = context.maker(node.inputs[0])
        if inner.op == "sub" and len(inner.inputs) > 1:
            for index in inner.inputs[:2]:
                other = inner.inputs[1] if index == inner.inputs[0] else inner.inputs[0]
                # The model's output against data as they came.
                if context.maker(index).kind == "data" and context.values[other].grad:
                    yield node, index


@remark
def initial_loss(facts: StepFacts) -> Iterator[Finding]:
    """The first loss against that of a model that knows nothing."""
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


@remark
def labels(facts: StepFacts) -> Iterator[Finding]:
    """Labels and the ignored index against the number of classes that the head has."""
    context = facts.context
    for node in relevant(context, "nll_loss_forward", "nll_loss2d_forward"):
        shape = context.node(node.inputs[0]).shape
        target = context.node(node.inputs[1]).measured
        if len(shape) < 2 or target is None:
            continue
        n, ignored = shape[1], int(node.attrs.get("ignore_index", -100))
        if target.hi < n // 2 and n > 3 and target.hi < n - 1:
            yield finding(
                "label-range",
                "note",
                f"the head has {n} classes, and the labels of these batches end at {target.hi:g}",
                node,
                value=f"{target.hi:g}",
            )
        if target.lo < 0 and target.lo != ignored:
            yield finding(
                "label-range",
                "error",
                f"a label is {target.lo:g}, and ignore_index is {ignored}",
                node,
                value=f"{target.lo:g}",
                cause="label-out-of-range",
            )
    yield from _labels_of_compiled(context)


def _labels_of_compiled(context: Context) -> Iterator[Finding]:
    """Labels that pick from logits by a gather, or that are compared with the numbers of the classes."""
    for form in log_softmaxes(context):
        for node in relevant(context, "gather", "eq"):
            if node.op == "gather":
                # What is picked from are the logits, their shifted form, or the logarithm of their softmax.
                if not node.inputs or context.node(node.inputs[0]).shape[-1:] != (form.n,):
                    continue
                operands = node.inputs[1:2]
            else:
                numbers = [i for i in node.inputs if context.maker(i).op == "iota"]
                if not numbers or context.node(numbers[0]).shape[-1:] != (form.n,):
                    continue
                operands = tuple(i for i in node.inputs if i not in numbers)
            for index in operands:
                leaf = _leaf(context, index)
                if leaf is None or leaf.measured is None:
                    continue
                top = leaf.measured.hi
                if top >= form.n and _is_of(context, node, form):
                    what = "gives NaN" if node.op == "gather" else "is no class at all: its row of the one-hot is 0"
                    yield finding(
                        "label-range",
                        "error",
                        f"a label is {top:g}, and the head has {form.n} classes, 0 to {form.n - 1}: it {what}",
                        node,
                        value=f"{top:g}",
                        cause="label-out-of-range",
                    )
                    return


def _leaf(context: Context, index: int) -> Node | None:
    """Return the data that whole numbers come from."""
    for _ in range(8):
        node = context.maker(index)
        if node.kind == "data":
            return node
        if node.op not in ("select_n", "where", "add", "copy", "cat", "round") or not node.inputs:
            return None
        index = node.inputs[1] if node.op in ("select_n", "where") else node.inputs[0]
    return None


def _is_of(context: Context, node: Node, form: LogSoftmax) -> bool:
    """Whether an operation picks from the logits, or is multiplied with what was made of them."""
    graph = context.graph
    if node.op == "gather":
        return form.logits in graph.ancestors(node.inputs[0])
    for other in relevant(context, "mul"):
        if other.shape[-1:] == (form.n,) and len(other.inputs) > 1:
            sides = [graph.ancestors(i) for i in other.inputs[:2]]
            if any(node.index in a and node.index not in b and form.logits in b for a, b in (sides, sides[::-1])):
                return True
    return False


@remark
def loss_input_mismatch(facts: StepFacts) -> Iterator[Finding]:
    """A loss fed what it is not made for."""
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


@remark
def loss_scaling(facts: StepFacts) -> Iterator[Finding]:
    """float16 without a scaler, and gradients clipped while they are still scaled."""
    graph = facts.context.graph
    relevant = graph.relevant()
    half = next(
        (
            n
            for n in graph.nodes
            if n.dtype == "float16"
            and n.kind == "op"
            and n.index in relevant
            and n.op not in ("_to_copy", "alias", "t", "view")
            and n.phase == "forward"
        ),
        None,
    )
    if half is not None and not facts.is_scaled and not _is_scaled_by_hand(facts.context):
        yield finding(
            "loss-scaling",
            "warning",
            "the forward pass runs in float16 and no GradScaler scales the loss: small gradients become 0",
            half,
            cause="missing-grad-scaling",
        )
    place = facts.clipped_before_unscale
    if place is not None:
        yield Finding(
            "clip-before-unscale",
            "error",
            "gradients are clipped while they are still multiplied by the loss scale: call "
            "scaler.unscale_(optimizer) "
            "first",
            place.line,
            place.file,
            cause="missing-grad-scaling",
        )


def _is_scaled_by_hand(context: Context) -> bool:
    """Whether the loss is multiplied by a large number before its gradient is taken."""
    for root in context.graph.roots:
        node = context.maker(root)
        if node.op == "mul" and any((context.number(i) or 0) >= _LEAST_SCALE for i in node.inputs):
            return True
    return False


_LEAST_SCALE = 16
