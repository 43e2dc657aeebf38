"""Statistics of too little: means over nothing, a spread of one item, constants normalised without an epsilon."""

from collections.abc import Iterator, Sequence

from whynan.check.context import Context
from whynan.check.dtypes import SMALLEST, number
from whynan.check.graph import Node
from whynan.check.hazards import Hazard, hazards_of
from whynan.check.ranges import Range
from whynan.check.transfer.reductions import n_reduced

_MEANS = (
    "mse_loss",
    "smooth_l1_loss",
    "huber_loss",
    "l1_loss",
    "binary_cross_entropy",
    "soft_margin_loss",
    "binary_cross_entropy_with_logits",
    "nll_loss_forward",
    "nll_loss2d_forward",
)
MEAN_REDUCTION = 1


@hazards_of("mean", "nanmean", *_MEANS)
def empty_mean(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if node.op in _MEANS and node.attrs.get("reduction", MEAN_REDUCTION) != MEAN_REDUCTION:
        return
    for place, x in enumerate(ins[:2]):
        if x.empty and x.varies:
            yield Hazard(
                node.index,
                "empty-reduction",
                "the mean is taken over the elements that a mask picks, and it may pick none: 0 / 0",
                ("skip-empty", "mask-fix"),
                operand=place,
                goal="empty",
                certainty=0.85,
            )
            return


@hazards_of("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss2d")
def all_ignored(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if node.attrs.get("reduction", MEAN_REDUCTION) != MEAN_REDUCTION or len(ins) < 2:
        return
    ignored = float(node.attrs.get("ignore_index", -100))
    target = ins[1]
    if target.varies and target.lo <= ignored <= target.hi and not target.soft:
        yield Hazard(
            node.index,
            "empty-reduction",
            f"the mean is taken over the targets that are not {ignored:g}; a batch of nothing else gives 0 / 0",
            ("skip-empty", "mask-fix"),
            operand=1,
            goal="constant",
            bound=ignored,
            certainty=0.8,
        )


@hazards_of("std", "var", "var_mean", "std_mean")
def spread_of_one(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    correction = node.attrs.get("correction")
    correction = 1.0 if correction is None else float(correction)
    if node.attrs.get("unbiased") is False:
        correction = 0.0
    if correction <= 0:
        return
    n = n_reduced(node, context)
    if n <= correction or ins[0].empty or (node.attrs.get("n_varies") and node.measured is not None):
        yield Hazard(
            node.index,
            "empty-reduction",
            f"the spread divides by n - {correction:g}, and n, here {n}, may be 1",
            ("skip-empty", "larger-eps"),
            goal="empty",
            certainty=0.8,
        )


@hazards_of("_ctc_loss", "ctc_loss", "_use_cudnn_ctc_loss")
def ctc(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    consumers = [n for n in context.graph.nodes[node.index : node.index + 40] if n.op in ("where", "masked_fill")]
    if node.attrs.get("zero_infinity") or any(n.op == "where" for n in consumers):
        return
    yield Hazard(
        node.index,
        "bad-target-values",
        "CTC has no path where the input is shorter than the target with its repeats: the loss is inf",
        ("fix-labels", "skip-empty"),
        certainty=0.6,
    )


@hazards_of(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "native_layer_norm",
    "native_group_norm",
    "batch_norm",
    "layer_norm",
    "group_norm",
    "cudnn_batch_norm",
    "_fused_rms_norm",
    "_batch_norm_with_update",
)
def without_eps(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    eps = node.attrs.get("eps")
    if eps is None:
        return
    if float(eps) <= SMALLEST.get(node.dtype, 0.0):
        yield Hazard(
            node.index,
            "normalization-zero-variance",
            f"eps is {number(float(eps))}: where all that is normalised together is the same the variance is "
            "0, and 1 / sqrt(0) is inf",
            ("larger-eps",),
            goal="constant",
            certainty=0.9,
        )
