"""Values that came in as they are: -inf put there on purpose, memory that nothing was written to."""

from collections.abc import Iterator, Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.hazards import EVERY, Hazard, hazards_of
from whynan.check.ranges import Range
from whynan.check.relations import difference_from_extreme, mask_varies


@hazards_of("_softmax", "softmax", "_log_softmax", "log_softmax")
def fully_masked(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    x = ins[0]
    if x.masked and x.varies and mask_varies(node, context):
        yield Hazard(
            node.index,
            "fully-masked-softmax",
            "the mask depends on the data: a row that is masked as a whole is softmax of -inf only, which is NaN",
            ("mask-fix", "skip-empty"),
            goal="constant",
            bound=float("-inf"),
            certainty=0.8,
        )


@hazards_of("sub", "sub_")
def difference(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if len(ins) < 2 or not (ins[0].masked and ins[1].masked):
        return
    if difference_from_extreme(node.inputs[0], node.inputs[1], context) == "below":
        yield Hazard(
            node.index,
            "fully-masked-softmax",
            "a row that is masked as a whole has -inf for its maximum, and -inf - -inf is NaN",
            ("mask-fix", "skip-empty"),
            certainty=0.9,
        )
        return
    yield Hazard(
        node.index,
        "inf-minus-inf",
        "both operands may be -inf, and -inf - -inf is NaN",
        ("mask-fix",),
        certainty=0.7,
    )


@hazards_of("logsumexp")
def logsumexp(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if ins[0].masked and ins[0].varies and out.grad and mask_varies(node, context) and not node.attrs.get("guarded"):
        yield Hazard(
            node.index,
            "fully-masked-softmax",
            "a row of -inf only has no derivative of logsumexp",
            ("mask-fix",),
            phase="backward",
            certainty=0.5,
        )


def uninitialized(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if node.attrs.get("uninitialized") and node.stack:
        yield Hazard(
            node.index,
            "uninitialized-memory",
            f"{node.name or 'a parameter'} was made by `empty` and nothing was written to it: it holds "
            "whatever was there",
            ("better-init",),
            certainty=0.95,
        )


EVERY.append(uninitialized)
