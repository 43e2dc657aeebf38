"""Labels and the ignored index against the number of classes that the head has."""

from collections.abc import Iterator

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.patterns import LogSoftmax, log_softmaxes
from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding, relevant


def find(facts: StepFacts) -> Iterator[Finding]:
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
    yield from _of_compiled(context)


def _of_compiled(context: Context) -> Iterator[Finding]:
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
