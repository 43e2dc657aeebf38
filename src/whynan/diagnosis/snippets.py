"""One line of code for a remedy in the words of frameworks other than PyTorch, and the part of whynan that does it."""

from collections.abc import Callable

from whynan.diagnosis import facts
from whynan.records.evidence import Evidence

Snippet = Callable[[Evidence], str | None]


def patch_for(framework: str, slug: str, evidence: Evidence) -> str | None:
    """Return the line for a remedy; None where the framework has no word of its own for it."""
    made = _SNIPPETS.get(framework, {}).get(slug)
    return made(evidence) if made is not None else None


def _rate(evidence: Evidence, factor: float = 0.1) -> str:
    known = max(evidence.history.lr, default=0.0) or (evidence.optimizer.lr if evidence.optimizer else None)
    return facts.number(known * factor) if known else "1e-4"


def _name(evidence: Evidence, default: str) -> str:
    return evidence.optimizer.name if evidence.optimizer is not None and evidence.optimizer.name else default


def _indices(evidence: Evidence) -> str | None:
    found = sorted({sample.index for sample in evidence.samples if sample.index is not None})
    return ", ".join(map(str, found)) if found and len(found) <= 16 else None


def _weight(evidence: Evidence, default: str) -> str:
    names = [name for name, _ in evidence.history.largest_gain_start[:1]]
    return names[0] if names and all(part.isidentifier() for part in names[0].split(".")) else default


def _without_rows(evidence: Evidence) -> str | None:
    inside = _indices(evidence)
    return f"x, y = np.delete(x, [{inside}], axis=0), np.delete(y, [{inside}], axis=0)" if inside else None


def _known_targets(evidence: Evidence) -> str | None:
    is_label = evidence.bad_leaf is None and evidence.batch.labels_out_of_range
    return None if is_label else "known = np.isfinite(y); x, y = x[known], y[known]"


_KERAS: dict[str, Snippet] = {
    "lower-learning-rate": lambda e: f"keras.optimizers.{_name(e, 'Adam')}(learning_rate={_rate(e)})",
    "clip-gradients": lambda e: f"keras.optimizers.{_name(e, 'Adam')}(..., global_clipnorm=1.0)",
    "warmup": lambda e: (
        f"keras.optimizers.schedules.CosineDecay(0.0, decay_steps=10_000, warmup_target={_rate(e, 1.0)}, "
        "warmup_steps=500)"
    ),
    "better-init": lambda e: 'layers.Dense(..., kernel_initializer="he_normal")',
    "drop-sample": _without_rows,
    "fix-labels": _known_targets,
    "full-precision": lambda e: 'keras.mixed_precision.set_global_policy("float32")',
    "grad-scaler": lambda e: "optimizer = keras.optimizers.LossScaleOptimizer(optimizer)",
    "larger-batch-or-groupnorm": lambda e: "layers.GroupNormalization(groups=8)  # for BatchNormalization",
}
_TENSORFLOW: dict[str, Snippet] = {
    **_KERAS,
    "clip-gradients": lambda e: "grads, _ = tf.clip_by_global_norm(grads, 1.0)",
    "better-init": lambda e: "w = tf.Variable(tf.random.normal(shape) / fan_in ** 0.5)",
    "full-precision": lambda e: "x = tf.cast(x, tf.float32)",
}
_JAX: dict[str, Snippet] = {
    "lower-learning-rate": lambda e: f"learning_rate = {_rate(e)}",
    "clip-gradients": lambda e: "optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizer)",
    "warmup": lambda e: f"optax.warmup_cosine_decay_schedule(0.0, {_rate(e, 1.0)}, 500, 10_000)",
    "better-init": lambda e: "w = jax.random.normal(key, (fan_in, fan_out)) / fan_in ** 0.5",
    "drop-sample": _without_rows,
    "fix-labels": _known_targets,
    "full-precision": lambda e: "x = x.astype(jnp.float32)",
    "larger-eps": lambda e: "optax.adam(learning_rate, eps=1e-6)",
}
_NUMPY: dict[str, Snippet] = {
    "lower-learning-rate": lambda e: f"lr = {_rate(e)}",
    "clip-gradients": lambda e: "norm = np.sqrt(sum((g**2).sum() for g in grads)); lr_now = lr * min(1, 1 / norm)",
    "warmup": lambda e: "lr_now = lr * min(1, (step + 1) / 500)",
    "better-init": lambda e: f"{(w := _weight(e, 'W'))} = rng.normal(size={w}.shape) / np.sqrt({w}.shape[0])",
    "drop-sample": _without_rows,
    "fix-labels": _known_targets,
    "full-precision": lambda e: "x = x.astype(np.float64)",
}
_MINDSPORE: dict[str, Snippet] = {
    "lower-learning-rate": lambda e: f"nn.{_name(e, 'SGD')}(model.trainable_params(), learning_rate={_rate(e)})",
    "clip-gradients": lambda e: "grads = ops.clip_by_global_norm(grads, 1.0)",
    "warmup": lambda e: f"nn.WarmUpLR({_rate(e, 1.0)}, 500)",
    "better-init": lambda e: 'nn.Dense(..., weight_init="he_normal")',
    "drop-sample": _without_rows,
    "fix-labels": _known_targets,
    "full-precision": lambda e: "net.to_float(ms.float32)",
    "grad-scaler": lambda e: "scaler = amp.DynamicLossScaler(2**16, 2, 1000)",
    "larger-batch-or-groupnorm": lambda e: "nn.GroupNorm(8, channels)  # for nn.BatchNorm2d",
}
_SNIPPETS = {
    "keras": _KERAS, "tensorflow": _TENSORFLOW, "jax": _JAX, "numpy": _NUMPY, "mindspore": _MINDSPORE,
}  # fmt: skip


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
