"""Elements picked by index or mask: there may be none of them."""

from collections.abc import Sequence
from dataclasses import replace

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.ranges import INF, Range, of, times
from whynan.check.transfer import transfers
from whynan.check.transfer.comparison import refined


def may_pick_none(node: Node, ins: Sequence[Range], context: Context) -> bool:
    """Whether one of the masks or lists of positions that pick elements may hold none."""
    for r, index in zip(ins[1:], node.inputs[1:]):
        maker = context.node(index)
        if maker.dtype == "bool" and r.varies and r.lo < 1:
            return True
        if r.empty and maker.dtype != "bool":
            return True
    return False


@transfers(
    "index",
    "gather",
    "index_select",
    "take",
    "masked_select",
    "embedding",
    "take_along_dim",
    "take_along_axis",
    "embedding_bag",
)
def picked(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    picks = node.op in ("index", "masked_select", "index_select")
    empty = x.empty or (picks and may_pick_none(node, ins, context))
    varies = any(r.varies for r in ins)
    if node.op in ("index", "masked_select") and len(node.inputs) > 1 and context.node(node.inputs[1]).dtype == "bool":
        x = refined(x, node.inputs[0], node.inputs[1], True, context)
    return replace(x, empty=empty, varies=varies)


@transfers("nonzero", "nonzero_numpy", "unique", "_unique2", "unique_consecutive", "unique_dim", "argwhere")
def found(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    if node.op.startswith(("nonzero", "argwhere")):
        n = context.node(node.inputs[0]).size
        return of(0.0, float(n), x, integer=True, nonzero=False, empty=x.varies and x.lo <= 0, grad=False, soft=False)
    return x


@transfers("one_hot")
def one_hot(node: Node, ins: Sequence[Range], context: Context) -> Range:
    return of(0.0, 1.0, *ins[:1], integer=True, nonzero=False, soft=False, grad=False)


@transfers(
    "scatter_add",
    "scatter_add_",
    "index_add",
    "index_add_",
    "segment_sum",
    "scatter_reduce",
    "bincount",
    "scatter-add",
    "histc",
)
def added(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """A sum of as many as happen to fall on a place, none included."""
    if node.op in ("bincount", "histc"):
        return of(
            0.0,
            float(max(context.node(node.inputs[0]).size, 1)),
            ins[0],
            integer=True,
            nonzero=False,
            grad=False,
            soft=False,
            empty=False,
        )
    base, source = ins[0], ins[-1]
    n = max(context.node(node.inputs[-1]).size, 1)
    lo = base.lo + times(n, min(source.lo, 0.0))
    hi = base.hi + times(n, max(source.hi, 0.0))
    return of(
        lo,
        hi,
        *ins,
        integer=base.integer and source.integer,
        soft=base.soft or source.soft,
        empty=False,
        nonzero=lo > 0 or hi < 0,
    )


@transfers("box_iou", "nms")
def overlap(node: Node, ins: Sequence[Range], context: Context) -> Range:
    if node.op == "nms":
        return of(0.0, INF, *ins[:1], integer=True, nonzero=False, grad=False, empty=True)
    return of(0.0, 1.0, *ins)
