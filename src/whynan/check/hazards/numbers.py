"""Hazards of values, of sums and products that overflow, and of statistics over too little."""

from collections.abc import Iterator, Sequence

from whynan.check.context import SHAPES, Context, difference_from_extreme, mask_varies
from whynan.check.graph import SMALLEST, Node, Range, exp_limit, is_half, largest, number
from whynan.check.hazards import EVERY, Hazard, hazards_of, say
from whynan.check.transfer.reductions import n_reduced


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


@hazards_of("exp", "expm1", "exp2", "exp_", "sinh", "cosh")
def overflow(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    x, limit = ins[0], exp_limit(node.dtype)
    if node.op == "exp2":
        limit /= 0.6931471805599453
    # What a hand-written derivative is given only training tells; nobody has guarded it for the framework's users.
    is_open = node.custom is not None and x.soft and x.hi > 0
    if x.varies and (x.hi > limit or is_open):
        yield Hazard(
            node.index,
            "exp-overflow" if node.dtype != "float16" else "half-precision-overflow",
            f"{node.op} takes x in {say(x)}; above {number(limit)} it overflows {node.dtype}",
            ("clamp-or-eps", "stable-loss"),
            phase="backward" if node.phase == "backward" else "forward",
            goal="high",
            bound=limit,
            certainty=0.7,
        )


@hazards_of("mul", "mul_", "square", "pow", "integer_pow")
def product(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    """Two factors that each grow like an exponential overflow where neither has yet."""
    factors = ins[:2] if node.op.startswith("mul") else [ins[0], ins[0]]
    if node.op in ("pow", "integer_pow"):
        p = node.attrs.get("y") if node.op == "integer_pow" else context.number(node.inputs[1])
        if p is None or float(p) < 2:
            return
    top = largest(node.dtype)
    root = top ** (0.125 if node.custom is not None else 0.5)
    if all(r.steep and r.varies and r.magnitude > root for r in factors):
        yield Hazard(
            node.index,
            "exp-overflow",
            f"a product of two exponentials grows faster than either, and overflows {node.dtype} before they do",
            ("stable-loss", "clamp-or-eps"),
            goal="high",
            bound=top,
            phase="backward" if node.phase == "backward" else "forward",
            certainty=0.6,
        )


@hazards_of("pow", "pow_")
def variable_exponent(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    base = context.number(node.inputs[0]) if node.inputs else None
    if base is not None and base > 1 and ins[1].varies and out.hi > largest(node.dtype):
        yield Hazard(
            node.index,
            "exp-overflow",
            f"{number(base)} ** y takes y in {say(ins[1])}: it overflows {node.dtype}",
            ("clamp-or-eps",),
            operand=1,
            goal="high",
            bound=ins[1].hi * 0.9,
        )


_QUIET = (SHAPES - {"_to_copy", "convert_element_type"}) | {"item", "constant", "exp", "log", "div", "written", "relu"}


@hazards_of()
def half_overflow(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    if not is_half(node.dtype) or node.kind != "op" or node.op in _QUIET or not out.varies or node.measured is None:
        return
    top = largest(node.dtype)
    if (
        out.magnitude > top
        and node.measured.magnitude > top / 4096
        and all(r.magnitude <= top for r in ins if r.varies)
    ):
        yield Hazard(
            node.index,
            "half-precision-overflow",
            f"{node.op} gave up to {number(node.measured.magnitude)} in this step and may reach "
            f"{number(out.magnitude)}; float16 ends at 65504",
            ("full-precision", "normalize-inputs"),
            goal="high",
            bound=top,
            certainty=0.6,
        )


@hazards_of("add", "add_", "clamp", "clamp_min", "clamp_", "maximum")
def vanishing_constant(node: Node, ins: Sequence[Range], out: Range, context: Context) -> Iterator[Hazard]:
    """An epsilon that float16 rounds to 0 guards nothing."""
    if not is_half(node.dtype):
        return
    value = node.attrs.get("min")
    if value is None and len(node.inputs) > 1:
        value = context.number(node.inputs[1])
    if value is not None and 0 < abs(float(value)) < SMALLEST[node.dtype] / 2:
        yield Hazard(
            node.index,
            "half-precision-underflow",
            f"{number(float(value))} is 0 in float16, whose smallest number is {number(SMALLEST['float16'])}: "
            f"it guards nothing against x in {say(ins[0])}",
            ("larger-eps", "full-precision"),
            certainty=0.9,
        )


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
