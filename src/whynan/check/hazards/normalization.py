"""Normalisations without an epsilon: 1 / 0 where a channel, group or row is constant."""

from collections.abc import Iterator, Sequence

from whynan.check.context import Context
from whynan.check.dtypes import SMALLEST
from whynan.check.graph import Node
from whynan.check.hazards import Hazard, hazards_of
from whynan.check.ranges import Range
from whynan.check.words import number


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
