"""Plain names of operations: RealDiv, div, true_divide and `/` are all div."""

import re

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_PLAIN = {
    "real_div": "div", "truediv": "div", "true_divide": "div", "divide": "div", "xdivy": "div", "floor_div": "div",
    "add_v2": "add", "add_n": "add", "add_any": "add", "bias_add": "add", "select_v2": "where", "select": "where",
    "select_n": "where", "mat_mul": "matmul", "batch_mat_mul_v2": "matmul", "batch_mat_mul": "matmul",
    "dot_general": "matmul", "dot": "matmul", "inner": "matmul", "vdot": "matmul", "conv2_d": "conv2d",
    "conv_general_dilated": "conv", "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min",
    "reduce_prod": "prod", "reduce_mean": "mean", "reduce_std": "std", "reduce_variance": "var", "logistic": "sigmoid",
    "fused_batch_norm_v3": "batch_norm", "fused_batch_norm": "batch_norm", "integer_pow": "pow", "power": "pow",
    "float_power": "pow", "multiply": "mul", "subtract": "sub", "negative": "neg", "reciprocal_no_nan": "reciprocal",
    "sparse_softmax_cross_entropy_with_logits": "cross_entropy", "softmax_cross_entropy_with_logits": "cross_entropy",
    "reduce_logsumexp": "logsumexp", "log_sum_exp": "logsumexp", "euclidean_norm": "norm", "arccos": "acos",
    "arcsin": "asin", "arctanh": "atanh", "arccosh": "acosh", "inv": "reciprocal", "l2_normalize": "rsqrt",
    "resource_apply_adam": "adam",
}  # fmt: skip
SPOKEN = frozenset(
    """norm softmax log_softmax logsumexp reduce_logsumexp std var reduce_std reduce_variance euclidean_norm
    masked_softmax mean nanmean reduce_mean xlogy logaddexp cdist hypot moments average median""".split()  # noqa: SIM905
)
"""Functions that libraries make of several operations, and that a reader knows by name."""
ELEMENTWISE = frozenset(
    """add sub mul div pow exp log log1p expm1 sqrt rsqrt reciprocal square neg abs sign tanh sigmoid where maximum
    minimum max_ acos asin atanh acosh sinh cosh sin cos tan erf squared_difference convert_element_type cast identity
    copy relu softplus exp2 log2 log10 xlogy selu elu stop_gradient name leaky_relu clip clip_by_value""".split()  # noqa: SIM905
)


def plain_name(name: str) -> str:
    """Return the plain name of a framework's op type or primitive."""
    snake = _CAMEL.sub("_", name).lower().strip("_") if name != name.lower() else name.strip("_")
    return _PLAIN.get(snake, snake)


def forward_name(name: str) -> str:
    """Return the name of the op that a gradient kernel (SqrtGrad, ReluGrad) is the derivative of."""
    return plain_name(re.sub(r"Grad(V\d)?$", "", name))


def spoken_name(primitive: str, called: str | None) -> str:
    """Return the name by which a reader knows the op: that of the library's function where it has one."""
    if called in SPOKEN:
        return _PLAIN.get(called, called)
    return plain_name(primitive)
