"""Loss functions that the framework computes as one operation, guarded in their own way."""

from collections.abc import Sequence

from whynan.check.context import Context
from whynan.check.graph import Node
from whynan.check.ranges import INF, Range, of
from whynan.check.transfer import transfers


@transfers("binary_cross_entropy")
def binary_cross_entropy(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """PyTorch clamps the logarithms at -100."""
    return of(0.0, 100.0, *ins[:2], nonzero=False, soft=False)


@transfers(
    "binary_cross_entropy_with_logits",
    "mse_loss",
    "smooth_l1_loss",
    "huber_loss",
    "l1_loss",
    "soft_margin_loss",
    "multi_margin_loss",
    "_ctc_loss",
    "_use_cudnn_ctc_loss",
)
def nonnegative(node: Node, ins: Sequence[Range], context: Context) -> Range:
    a = ins[0].magnitude
    b = ins[1].magnitude if len(ins) > 1 else 0.0
    hi = (a + b) ** 2 + a + b if a + b < 1e150 else INF
    return of(0.0, hi if node.attrs.get("reduction", 1) != 2 else INF, *ins[:2], nonzero=False, empty=False)


@transfers("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss2d", "nll_loss_nd")
def nll(node: Node, ins: Sequence[Range], context: Context) -> Range:
    x = ins[0]
    return of(
        min(-x.hi, 0.0),
        max(-x.lo, 0.0) if node.attrs.get("reduction", 1) != 2 else INF,
        x,
        nonzero=False,
        masked=False,
        empty=False,
    )
