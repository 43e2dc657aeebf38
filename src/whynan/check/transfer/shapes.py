"""Operations that move or pick elements and change none."""

from collections.abc import Sequence
from dataclasses import replace

from whynan.check.context import SHAPES, Context
from whynan.check.graph import INF, Node, Range, is_float, join, of, times
from whynan.check.transfer import transfers
from whynan.check.transfer.creation import refined

SELECTING = [
    "select",
    "slice",
    "narrow",
    "split",
    "split_with_sizes",
    "unbind",
    "chunk",
    "tensor_split",
    "unfold",
    "as_strided",
    "diagonal",
    "squeeze_dims",
    "flip",
    "roll",
    "repeat",
    "tile",
    "repeat_interleave",
    "unsafe_split",
    "dynamic_slice",
    "rev",
    "real",
    "imag",
    "view_as_real",
    "select_and_gather_add",
    "max_pool2d_with_indices",
    "max_pool2d",
    "max_pool1d",
    "max_pool3d_with_indices",
    "adaptive_max_pool2d",
    "upsample_nearest2d",
    "upsample_nearest1d",
    "upsample_bilinear2d",
    "upsample_linear1d",
    "_upsample_bilinear2d_aa",
    "pixel_shuffle",
    "pixel_unshuffle",
    "im2col",
    "channel_shuffle",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
    "reduce_window_max",
    "movedim",
    "diag_embed",
    "triu",
    "tril",
    "diag",
]
PADDING = ("triu", "tril", "diag_embed", "diag", "max_pool2d_with_indices")


@transfers(*SHAPES)
def same_elements(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[1] if node.op == "copy_" and len(ins) > 1 else ins[0]
    if node.op in ("detach", "stop_gradient"):
        return replace(x, grad=False)
    if node.op in ("_to_copy", "convert_element_type", "copy_", "to") and not is_float(node.dtype):
        return of(x.lo, x.hi, x, integer=True, nonzero=x.nonzero and x.integer, grad=False)
    return x


@transfers(*SELECTING)
def selected(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    if node.op in PADDING and node.op not in ("max_pool2d_with_indices",):
        return of(min(x.lo, 0.0), max(x.hi, 0.0), x, integer=x.integer)
    measured = node.measured
    if not x.varies and measured is not None:
        return replace(x, lo=measured.lo, hi=measured.hi, nonzero=measured.least > 0)
    return x


@transfers("item")
def item(node: Node, ins: Sequence[Range], context: Context) -> Range:
    maker, x = context.node(node.inputs[0]), ins[0]
    index = int(node.attrs.get("index", 0))
    if index == 0 or maker.op in (
        "split",
        "split_with_sizes",
        "unbind",
        "chunk",
        "tensor_split",
        "unsafe_split",
        "aminmax",
    ):
        return x
    if maker.op in ("var_mean", "std_mean"):
        return replace(context.values[maker.inputs[0]], masked=False, empty=False)
    if maker.op in ("max.dim", "min.dim", "topk", "sort", "median.dim", "kthvalue", "cummax", "cummin"):
        n = max(context.node(maker.inputs[0]).size, 1)
        return of(0.0, float(n), x, integer=True, nonzero=False, soft=False, grad=False)
    if node.measured is not None:
        return estimated(node, x, context)
    return of(-INF, INF, x)


def estimated(node: Node, x: Range, context: Context) -> Range:
    """Return a range about an output that no rule is known for: what was measured, and as much again as may grow."""
    measured = node.measured
    if measured is None or context.growth is None:
        return of(-INF, INF, x)
    if not x.varies:
        return of(measured.lo, measured.hi, x, nonzero=measured.least > 0)
    reach = context.growth * measured.magnitude
    return of(-reach if measured.lo < 0 else 0.0, reach, x, soft=True, nonzero=False, steep=False, masked=False)


@transfers(
    "cat",
    "concatenate",
    "stack",
    "hstack",
    "vstack",
    "index_put",
    "index_put_",
    "index_copy",
    "index_copy_",
    "masked_scatter",
    "slice_scatter",
    "select_scatter",
    "scatter",
    "scatter_",
    "dynamic_update_slice",
    "block_diag",
    "_cat",
    "index_fill",
    "index_fill_",
    "meshgrid",
)
def joined(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """One tensor out of several, or one written into another."""
    if node.op in (
        "index_put",
        "index_put_",
        "scatter",
        "scatter_",
        "index_copy",
        "index_copy_",
        "index_fill",
        "index_fill_",
        "masked_scatter",
    ):
        parts = [ins[0], ins[-1]]
        if node.attrs.get("accumulate"):
            return of(-INF, INF, *parts)
        numbers = [context.number(node.inputs[0]), context.number(node.inputs[-1])]
        kept = [r for r, number in zip(parts, numbers) if number != -INF] or parts
        out = join(*kept)
        return replace(out, masked=out.masked or -INF in numbers, varies=any(r.varies for r in ins), empty=False)
    if node.op == "dynamic_update_slice":
        return join(*ins[:2])
    return join(*ins) if ins else Range()


@transfers("written")
def written(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """Memory of which a part was written anew through another view."""
    old, new = ins[0], ins[1]
    if old.masked and not new.masked and context.number(node.inputs[1]) is not None:
        return replace(join(old, new), masked=False)
    out = join(old, new)
    return replace(out, grad=old.grad or new.grad)


@transfers("pad", "constant_pad_nd")
def pad(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    value = node.attrs.get("value")
    if value is None and len(ins) > 1:
        value = ins[1].lo
    value = float(value or 0)
    if value == -INF:
        return replace(x, masked=True)
    return of(min(x.lo, value), max(x.hi, value), x, integer=x.integer)


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
