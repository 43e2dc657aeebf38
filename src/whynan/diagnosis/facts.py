"""Questions that several causes ask of the evidence, each answered in one place."""

import math
import re

from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence, TensorSummary

ALIASES = {
    "true_divide": "div", "truediv": "div", "divide": "div", "floor_divide": "div", "__truediv__": "div",
    "linalg_vector_norm": "norm", "linalg_norm": "norm", "frobenius_norm": "norm", "vector_norm": "norm",
    "__pow__": "pow", "float_power": "pow", "power": "pow", "std_mean": "std", "var_mean": "var",
    "arccos": "acos", "arcsin": "asin", "arccosh": "acosh", "arctanh": "atanh",
    "subtract": "sub", "multiply": "mul", "special_logit": "logit", "special_xlogy": "xlogy",
    "nll_loss_forward": "nll_loss", "nll_loss2d_forward": "nll_loss", "nll_loss2d": "nll_loss",
    "nll_loss_nd": "nll_loss", "cross_entropy_loss": "cross_entropy", "_cdist_forward": "cdist",
    "cudnn_batch_norm": "native_batch_norm", "_native_batch_norm_legit": "native_batch_norm", "nanmean": "mean",
    "_native_batch_norm_legit_functional": "native_batch_norm", "weight_norm_interface": "weight_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
}  # fmt: skip
SOFTMAX = {
    "softmax", "log_softmax", "logsumexp", "masked_softmax", "scaled_dot_product_attention", "logcumsumexp",
    "scaled_dot_product_flash_attention", "scaled_dot_product_flash_attention_for_cpu", "native_multi_head_attention",
    "scaled_dot_product_efficient_attention", "scaled_dot_product_cudnn_attention", "safe_softmax",
}  # fmt: skip
SINGULAR = {
    "log", "log2", "log10", "log1p", "logit", "xlogy", "div", "reciprocal", "rsqrt", "sqrt", "norm", "cdist", "acos",
    "asin", "acosh", "atanh", "softmax", "log_softmax", "ctc_loss", "nll_loss", "lgamma", "digamma", "remainder",
    "fmod", "cross_entropy", "erfinv", "weight_norm",
}  # fmt: skip
LIMITS = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.4e38, "float64": 1.8e308}
EXP_LIMITS = {"float16": 11.0, "bfloat16": 88.7, "float32": 88.7, "float64": 709.7}
# A value beyond this can overflow in one product, square or long sum; below it, it can't.
LARGE = {"float16": 16.0, "bfloat16": 1e8, "float32": 1e8, "float64": 1e60}
NORM_LAYER = re.compile(r"(batch|layer|group|instance|rms)_?norm", re.IGNORECASE)


def op_of(evidence: Evidence) -> str:
    """Return the plain name of the origin's op, one name for each operation however it was spelled; "" without one."""
    if evidence.origin is None:
        return ""
    name = evidence.origin.op.lower().strip()
    name = ALIASES.get(name, name.rstrip("_").removeprefix("special_"))
    name = ALIASES.get(name, name.lstrip("_"))
    return ALIASES.get(name, name)


def is_forward(evidence: Evidence) -> bool:
    return evidence.origin is not None and evidence.origin.phase in ("forward", "data")


def is_backward(evidence: Evidence) -> bool:
    return evidence.origin is not None and evidence.origin.phase == "backward"


def is_data(evidence: Evidence) -> bool:
    return evidence.origin is not None and evidence.origin.phase == "data"


def is_optimizer(evidence: Evidence) -> bool:
    return evidence.origin is not None and evidence.origin.phase == "optimizer"


def is_floating(tensor: TensorSummary) -> bool:
    return tensor.dtype.startswith(("float", "bfloat", "complex"))


def inputs(evidence: Evidence) -> tuple[TensorSummary, ...]:
    """Return the origin's inputs that hold floating-point numbers, all of them where none says so."""
    given = evidence.origin.inputs if evidence.origin else ()
    return tuple(tensor for tensor in given if is_floating(tensor)) or given


def first(evidence: Evidence) -> TensorSummary | None:
    given = inputs(evidence)
    return given[0] if given else None


def divisor(evidence: Evidence) -> TensorSummary | None:
    """Return what the origin divides by: the second input of a division, the only one of a reciprocal."""
    given = evidence.origin.inputs if evidence.origin else ()
    if op_of(evidence) == "div" and len(given) > 1:
        return given[1]
    # With a number as dividend only the divisor is a tensor.
    return given[0] if given else None


def with_zero_divisor(evidence: Evidence) -> TensorSummary | None:
    """Return the divisor of a division, where it holds an exact 0."""
    if op_of(evidence) not in ("div", "reciprocal", "rsqrt"):
        return None
    found = divisor(evidence)
    return found if found is not None and found.n_zero else None


def with_zeros(evidence: Evidence) -> TensorSummary | None:
    """Return the first of the origin's inputs that holds an exact 0; a gradient that came in is not looked at."""
    return next((tensor for tensor in inputs(evidence) if tensor.n_zero and tensor.role != "gradient"), None)


def dtype_of(evidence: Evidence) -> str:
    origin = evidence.origin
    if origin is None:
        return evidence.precision.parameters
    if origin.output is not None and is_floating(origin.output):
        return origin.output.dtype
    return next((tensor.dtype for tensor in origin.inputs if is_floating(tensor)), "float32")


def runs_in_half(evidence: Evidence) -> bool:
    """Return whether the step as a whole computes in float16 or bfloat16 anywhere."""
    names = (evidence.precision.autocast, evidence.precision.parameters, dtype_of(evidence))
    return any(name in ("float16", "bfloat16") for name in names)


def largest_input(evidence: Evidence) -> float:
    return max((tensor.abs_max for tensor in inputs(evidence)), default=0.0)


def exp_limit(dtype: str) -> float:
    return EXP_LIMITS.get(dtype, 88.7)


def is_overflow(evidence: Evidence) -> bool:
    """Return whether the numbers were too large for the dtype: finite and large inputs, no singular point."""
    origin = evidence.origin
    if origin is None or op_of(evidence) in SINGULAR or any(tensor.n_nonfinite for tensor in inputs(evidence)):
        return False
    dtype = dtype_of(evidence)
    if op_of(evidence).startswith("exp"):
        return largest_input(evidence) > exp_limit(dtype) * 0.99
    if op_of(evidence) == "pow" and not origin_is_growing_power(evidence):
        return False
    return largest_input(evidence) >= LARGE.get(dtype, 1e8)


def origin_is_growing_power(evidence: Evidence) -> bool:
    value = exponent(evidence)
    return value is None or value > 1


def exponent(evidence: Evidence) -> float | None:
    """Return the exponent of the origin, where it is a power with one number as exponent."""
    args = evidence.origin.args if evidence.origin else {}
    value = args.get("exponent", args.get("p") if op_of(evidence) == "pow" else None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    given = evidence.origin.inputs if evidence.origin else ()
    if op_of(evidence) != "pow" or len(given) < 2 or given[1].min is None or given[1].min != given[1].max:
        return None
    # The derivative's own power is that of the exponent less one.
    return float(given[1].min) + (1 if is_backward(evidence) else 0)


def output_has_infinity(evidence: Evidence) -> bool:
    output = evidence.origin.output if evidence.origin else None
    return output is not None and (output.n_posinf + output.n_neginf) > 0


def output_has_nan(evidence: Evidence) -> bool:
    output = evidence.origin.output if evidence.origin else None
    return output is None or output.n_nan > 0


def local(evidence: Evidence, confidence: float) -> float:
    """Return the confidence of a cause that lies in the origin alone.

    After sustained growth an exact 0 or an overflow is most likely an effect; behind a `where` the trap is the
    better explanation. Both keep their place on the list, lower down.
    """
    if growth_of(evidence).diverged:
        confidence *= 0.65
    if is_behind_where(evidence):
        confidence *= 0.75
    return confidence


def is_behind_where(evidence: Evidence) -> bool:
    """Return whether a `where` hides the origin's values from the loss, and the gradient meets them all the same."""
    if evidence.origin is None or not evidence.through_where:
        return False
    return is_backward(evidence) or (is_forward(evidence) and any(step.phase == "backward" for step in evidence.path))


def words_of(evidence: Evidence) -> str:
    """Return the names around the origin (code, function, module, module type) as one string to search in."""
    origin = evidence.origin
    if origin is None:
        return ""
    parts = (origin.source.code, origin.source.function, origin.module, origin.module_type)
    return " ".join(part for part in parts if part)


def mentions(evidence: Evidence, pattern: str) -> bool:
    return re.search(pattern, words_of(evidence), re.IGNORECASE) is not None


def path_mentions(evidence: Evidence, pattern: str) -> bool:
    """Return whether a name at the origin or at any op on the path fits the pattern."""
    names = [words_of(evidence)]
    for step in evidence.path:
        names += [step.module or "", step.source.function or "", step.source.code or "", step.op]
    return re.search(pattern, " ".join(names), re.IGNORECASE) is not None


def is_norm_layer(evidence: Evidence) -> bool:
    """Return whether the origin lies in a normalisation layer, the framework's or the user's own."""
    origin = evidence.origin
    names = (op_of(evidence), origin.module_type or "", origin.framework_op) if origin else ()
    return any(NORM_LAYER.search(name) for name in names)


def is_huge_for_init(tensor: TensorSummary) -> bool:
    """Return whether a weight is far larger than an initialization by its fan-in would make it."""
    if tensor.role != "parameter" or len(tensor.shape) < 2:
        return False
    fan_in = math.prod(tensor.shape[1:])
    # The largest of some thousand normal numbers lies near 4 standard deviations; a usual gain is 0.6 to 1.4.
    return tensor.abs_max / 4 * math.sqrt(fan_in) > 6


def extreme_tensor(evidence: Evidence) -> TensorSummary | None:
    """Return the data's floating-point tensor with the largest magnitude, where that is beyond 1000."""
    known = (*evidence.batch.tensors, *inputs(evidence))
    given = [t for t in known if is_floating(t) and t.role in ("batch", "target")]
    largest = max(given, key=lambda tensor: tensor.abs_max, default=None)
    return largest if largest is not None and largest.abs_max > 1e3 else None


def hides_missing(evidence: Evidence) -> bool:
    """Return whether the data's NaN have left no trace in the loss, which is finite, and came back in its gradient."""
    leaf = evidence.bad_leaf
    if leaf is None or leaf.tensor.role not in ("batch", "target") or not leaf.tensor.n_nan:
        return False
    terms = evidence.loss_terms
    return evidence.symptom.what == "gradient" and bool(terms) and not any(term.first_nonfinite for term in terms)


def is_normalised(evidence: Evidence) -> bool:
    """Return whether what the origin made is soon divided by a sum, or its logarithm taken: a softmax in parts."""
    return any(step.op == "div" or step.op.startswith("log") for step in evidence.path[1:5])


def is_class_weight(evidence: Evidence) -> bool:
    """Return whether the step failed on a loss's weights of classes, infinite for some from the start on."""
    leaf = evidence.bad_leaf
    if leaf is None or leaf.tensor.role != "buffer" or leaf.since_step != -1 or leaf.tensor.n_nan:
        return False
    return (leaf.tensor.name or "").endswith("weight") and 0 < leaf.tensor.n_posinf < leaf.tensor.n_elements


def place(evidence: Evidence) -> str | None:
    """Return the origin's line as "train.py:57"."""
    source = evidence.origin.source if evidence.origin else None
    if source is None or source.file is None:
        return None
    return f"{source.file}:{source.line}" if source.line else source.file


def number(value: float | None) -> str:
    """Return a number as a reader wants it: six digits, no trailing zeros."""
    return "none" if value is None else f"{value:.6g}"


def describe(tensor: TensorSummary) -> str:
    """Return one tensor as a checkable fact: "f32[8, 2], 0 to 0.9, 3 zeros of 16"."""
    text = f"{tensor.name} = {tensor}" if tensor.name else str(tensor)
    if tensor.min is not None and tensor.max is not None:
        text += f", {number(tensor.min)} to {number(tensor.max)}"
    counts = (
        (tensor.n_zero, "zeros"),
        (tensor.n_nan, "nan"),
        (tensor.n_posinf, "inf"),
        (tensor.n_neginf, "-inf"),
    )
    for count, word in counts:
        if count:
            text += f", {count} {word} of {tensor.n_elements}"
    return text


def input_facts(evidence: Evidence) -> tuple[str, ...]:
    """Return one fact for each input of the origin, and one for its output."""
    origin = evidence.origin
    if origin is None:
        return ()
    made = tuple(
        f"{'gradient that came into' if tensor.role == 'gradient' else 'input of'} {origin.op}: {describe(tensor)}"
        for tensor in origin.inputs[:4]
    )
    return made if origin.output is None else (*made, f"output of {origin.op}: {describe(origin.output)}")
