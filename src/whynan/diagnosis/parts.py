"""Which part of whynan computes what an operation does and stays finite: named in a diagnosis, tried in experiments."""

_GUARDED = {
    "log": "log", "log2": "log", "log10": "log", "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "sqrt", "exp": "exp",
    "div": "div", "reciprocal": "reciprocal", "pow": "pow", "norm": "norm", "linalg_vector_norm": "norm", "std": "std",
    "var": "var", "acos": "acos", "asin": "asin", "atan2": "atan2", "logsumexp": "logsumexp", "normalize": "normalize",
}  # fmt: skip
"""Operation -> function of `ops` that saturates or has a bounded slope in its place."""
_PACKAGES = {"torch": "torch", "tensorflow": "keras", "keras": "keras", "jax": "jax", "mindspore": "mindspore",
             "numpy": "numpy"}  # fmt: skip
"""Framework -> package of whynan with its parts. Keras' run on TensorFlow's tensors."""
_AT_ITS_LINE = ("clamp-or-eps", "double-where")


def part_for(framework: str, slug: str, op: str) -> str | None:
    """Return the part that a remedy may use in the operation's place, "whynan.torch.ops.log"; None where none fits."""
    package, name = _PACKAGES.get(framework), _GUARDED.get(op)
    if slug not in _AT_ITS_LINE or package is None or name is None:
        return None
    return f"whynan.{package}.ops.{name}"
