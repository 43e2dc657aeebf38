"""Measure the parts of JAX, TensorFlow, MindSpore or NumPy against what people write without them.

    python benchmarks/parts_elsewhere.py {jax,tensorflow,mindspore,numpy} [--eager | --xla] [--rounds 15] [PART ...]

Forward and backward under `jax.jit` and `tf.function` (`--eager`: without; `--xla`: `jit_compile=True`, as in Keras's
`fit`), in MindSpore's PyNative mode; NumPy forward.
Both sides take turns on one processor; the number is the ratio of the fastest times by processor time. Targets are
arguments of what JAX compiles, as in a training step, and freed memory stays with the process. Counterparts are
the framework's own functions (Optax's for JAX) and the usual lines where there is no function. For PyTorch: parts.py.
"""

import argparse
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ELEMENTS = 1_000_000
# What glibc is to keep of freed memory: fetching a result's pages anew costs more than most parts, and which side has
# to is chance.
KEPT = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TOP_PAD_": "268435456"}
Case = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]


class Lines:
    """What people write: the same lines for all, with the functions of one framework."""

    def __init__(self, framework: str) -> None:
        self.name = framework
        if framework == "jax":
            import jax
            import jax.numpy as jnp

            self.np, self.array, self.softmax = jnp, jnp.asarray, jax.nn.softmax
            self.logsumexp = jax.scipy.special.logsumexp
        elif framework == "tensorflow":
            import tensorflow as tf

            self.np, self.array, self.softmax, self.logsumexp = tf.math, tf.constant, tf.nn.softmax, tf.reduce_logsumexp
        elif framework == "mindspore":
            import mindspore

            self.np, self.array, self.softmax = mindspore.ops, mindspore.Tensor, mindspore.ops.softmax
            self.logsumexp = mindspore.ops.logsumexp
        else:
            from scipy import special

            self.np, self.array, self.softmax, self.logsumexp = np, np.asarray, special.softmax, special.logsumexp

    def f(self, *names: str) -> Callable[..., Any]:
        """Return the function by the first of these names that the framework has."""
        return next(getattr(self.np, name) for name in names if hasattr(self.np, name))

    def sum(self, x: Any, axis: Any = None) -> Any:
        if self.name == "mindspore":
            return x.sum(axis)
        return self.f("reduce_sum", "sum")(x, axis)

    def mean(self, x: Any, axis: Any = None) -> Any:
        if self.name == "mindspore":
            return x.mean(axis)
        return self.f("reduce_mean", "mean")(x, axis)

    def std(self, x: Any) -> Any:
        if self.name == "mindspore":
            return self.np.std(x, 1, 0, True)
        return self.f("reduce_std", "std")(x, 1, keepdims=True)

    def var(self, x: Any) -> Any:
        if self.name == "mindspore":
            return self.np.var(x, 1, 0, True)
        return self.f("reduce_variance", "var")(x, 1, keepdims=True)

    def row_mean(self, x: Any) -> Any:
        return self.sum(x, 1)[:, None] / x.shape[1]

    def norm(self, x: Any) -> Any:
        if self.name == "tensorflow":
            import tensorflow as tf

            return tf.norm(x, axis=1)
        return self.np.norm(x, dim=1) if self.name == "mindspore" else self.np.linalg.norm(x, axis=1)

    def normalize(self, x: Any) -> Any:
        if self.name == "tensorflow":
            import tensorflow as tf

            return tf.linalg.normalize(x, axis=1)[0]
        return x / self.norm(x)[:, None]

    def where(self, *of: Any) -> Any:
        if self.name == "tensorflow":
            import tensorflow as tf

            return tf.where(*of)
        return self.np.where(*of)

    def log_softmax(self, x: Any) -> Any:
        if self.name == "jax":
            import jax

            return jax.nn.log_softmax(x, 1)
        if self.name == "tensorflow":
            import tensorflow as tf

            return tf.nn.log_softmax(x, 1)
        return self.np.log_softmax(x, 1) if self.name == "mindspore" else x - self.logsumexp(x, axis=1, keepdims=True)

    def pick(self, x: Any, index: Any) -> Any:
        """Return x[i, index[i]]."""
        if self.name == "tensorflow":
            import tensorflow as tf

            return tf.gather(x, index, batch_dims=1)
        if self.name == "mindspore":
            return self.np.gather_elements(x, 1, index[:, None])[:, 0]
        return self.np.take_along_axis(x, index[:, None], 1)[:, 0]

    def matmul(self, a: Any, b: Any) -> Any:
        if self.name == "tensorflow":
            import tensorflow as tf

            return tf.matmul(a, b)
        return self.np.matmul(a, b)

    def relu(self, x: Any) -> Any:
        return self.f("maximum")(x, self.array(np.float32(0)))

    def cross_entropy(self, x: Any, index: Any) -> Any:
        if self.name == "jax":
            import optax

            return self.mean(optax.softmax_cross_entropy_with_integer_labels(x, index))
        if self.name == "tensorflow":
            import tensorflow as tf

            return self.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(index, x))
        if self.name == "mindspore":
            return self.np.cross_entropy(x, index)
        return -self.mean(self.pick(self.log_softmax(x), index))

    def bce(self, x: Any, y: Any) -> Any:
        """Binary cross-entropy of logits for each element."""
        if self.name == "jax":
            import optax

            return optax.sigmoid_binary_cross_entropy(x, y)
        if self.name == "tensorflow":
            import tensorflow as tf

            return tf.nn.sigmoid_cross_entropy_with_logits(y, x)
        if self.name == "mindspore":
            return self.np.binary_cross_entropy_with_logits(
                x, y, self.np.ones_like(x), self.np.ones_like(x), reduction="none"
            )
        return self.relu(x) - x * y + self.np.log1p(self.np.exp(-self.np.abs(x)))

    def bce_of_p(self, p: Any, y: Any) -> Any:
        if self.name == "tensorflow":
            import keras

            return self.mean(keras.losses.binary_crossentropy(y, p))
        if self.name == "mindspore":
            return self.np.binary_cross_entropy(p, y, self.np.ones_like(p))
        return -self.mean(y * self.np.log(p) + (1 - y) * self.np.log(1 - p))

    def huber(self, a: Any, b: Any, beta: float = 1.0) -> Any:
        if self.name == "jax" and beta == 1:
            import optax

            return optax.huber_loss(a, b)
        if self.name == "mindspore":
            return self.np.smooth_l1_loss(a, b, beta=beta, reduction="none")
        size = self.np.abs(a - b)
        return self.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)

    def focal(self, x: Any, y: Any) -> Any:
        if self.name == "jax":
            import optax

            return self.mean(optax.sigmoid_focal_loss(x, y, alpha=0.25, gamma=2.0))
        if self.name == "tensorflow":
            import keras

            return self.mean(keras.losses.binary_focal_crossentropy(y, x, from_logits=True, apply_class_balancing=True))
        p = 1 / (1 + self.np.exp(-x))
        hit = p * y + (1 - p) * (1 - y)
        return self.mean((0.25 * y + 0.75 * (1 - y)) * (1 - hit) * (1 - hit) * self.bce(x, y))

    def dice(self, p: Any, y: Any) -> Any:
        return self.mean(1 - 2 * self.sum(p * y, (1, 2)) / (self.sum(p, (1, 2)) + self.sum(y, (1, 2))))

    def jaccard(self, p: Any, y: Any) -> Any:
        hit = self.sum(p * y, (1, 2))
        return self.mean(1 - hit / (self.sum(p, (1, 2)) + self.sum(y, (1, 2)) - hit))

    def nll(self, m: Any, y: Any, v: Any) -> Any:
        return self.mean(0.5 * (v + (m - y) * (m - y) / self.np.exp(v)))

    def box_parts(self, a: Any, b: Any) -> tuple[Any, ...]:
        high, low = self.f("maximum"), self.f("minimum")
        width = self.relu(low(a[:, 2], b[:, 2]) - high(a[:, 0], b[:, 0]))
        height = self.relu(low(a[:, 3], b[:, 3]) - high(a[:, 1], b[:, 1]))
        areas = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]) + (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
        hull = high(a[:, 2], b[:, 2]) - low(a[:, 0], b[:, 0]), high(a[:, 3], b[:, 3]) - low(a[:, 1], b[:, 1])
        return width * height, areas - width * height, *hull

    def iou(self, a: Any, b: Any) -> Any:
        overlap, union, _, _ = self.box_parts(a, b)
        return self.mean(1 - overlap / union)

    def giou(self, a: Any, b: Any) -> Any:
        overlap, union, width, height = self.box_parts(a, b)
        return self.mean(1 - overlap / union + (width * height - union) / (width * height))

    def distance_term(self, a: Any, b: Any) -> Any:
        overlap, union, width, height = self.box_parts(a, b)
        dx, dy = a[:, 0] + a[:, 2] - b[:, 0] - b[:, 2], a[:, 1] + a[:, 3] - b[:, 1] - b[:, 3]
        return overlap / union, (dx * dx + dy * dy) / 4 / (width * width + height * height + 1e-7)

    def diou(self, a: Any, b: Any) -> Any:
        iou, apart = self.distance_term(a, b)
        return self.mean(1 - iou + apart)

    def ciou(self, a: Any, b: Any) -> Any:
        iou, apart = self.distance_term(a, b)
        atan = self.f("atan", "arctan")
        turn = atan((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])) - atan((a[:, 2] - a[:, 0]) / (a[:, 3] - a[:, 1]))
        v = 4 / np.pi**2 * turn * turn
        return self.mean(1 - iou + apart + v * v / (1 - iou + v + 1e-7))

    def info_nce(self, a: Any, b: Any) -> Any:
        transpose = self.f("transpose", "t") if self.name != "tensorflow" else importlib.import_module(
            "tensorflow").transpose  # fmt: skip
        keys = self.normalize(b)
        logits = self.matmul(self.normalize(a), transpose(keys, (1, 0)) if self.name == "mindspore" else (
            transpose(keys))) / 0.07  # fmt: skip
        return self.cross_entropy(logits, self.array(np.arange(a.shape[0], dtype=np.int32)))

    def contrastive(self, a: Any, b: Any, same: Any) -> Any:
        distance = self.norm(a - b)
        missing = self.relu(1.0 - distance)
        return 0.5 * self.mean(same * distance * distance + (1 - same) * missing * missing)

    def ctc(self, x: Any, texts: Any, lengths: tuple[Any, Any]) -> Any:
        if self.name == "tensorflow":
            import tensorflow as tf

            return self.mean(tf.nn.ctc_loss(texts, x, lengths[1], lengths[0], blank_index=0))
        if self.name == "mindspore":
            return self.np.ctc_loss(x, texts, *lengths)[0]
        import optax

        rows = self.np.moveaxis(x, 0, 1)
        return self.mean(optax.ctc_loss(rows, self.np.zeros(rows.shape[:2]), texts, self.np.zeros(texts.shape)))

    def rpn(self, objectness: Any, deltas: Any, labels: np.ndarray, targets: Any) -> Any:
        """Masks, as where shapes are fixed."""
        kept, positive = (self.array(m.astype(np.float32)) for m in (labels >= 0, labels > 0))
        entropy = self.sum(self.bce(objectness, positive) * kept)
        return (entropy + self.sum(self.huber(deltas, targets, 1 / 9) * positive[:, None])) / float((labels >= 0).sum())

    def fast_rcnn(self, logits: Any, boxes: Any, labels: np.ndarray, targets: Any) -> Any:
        rows = np.arange(len(labels)) * 91 + labels
        reshape = importlib.import_module("tensorflow").reshape if self.name == "tensorflow" else self.np.reshape
        flat = reshape(boxes, (-1, 4))
        index = self.array(rows.astype(np.int32))
        taken = importlib.import_module("tensorflow").gather(flat, index) if self.name == "tensorflow" else flat[index]
        positive = self.array((labels > 0).astype(np.float32))
        box = self.sum(self.huber(taken, targets, 1 / 9) * positive[:, None]) / len(labels)
        return self.cross_entropy(logits, self.array(labels)) + box


def cases(framework: str) -> dict[str, Case]:
    home = {"tensorflow": "keras"}.get(framework, framework)
    ops, losses = (importlib.import_module(f"whynan.{home}.{name}") for name in ("ops", "losses"))
    of, rng = Lines(framework), np.random.default_rng(0)
    array = of.array

    def normal(*shape: int) -> Any:
        return array(rng.normal(size=shape).astype(np.float32))

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Any:
        return array(rng.uniform(low, high, shape).astype(np.float32))

    x, z, p, half = uniform(ELEMENTS) + 0.1, normal(ELEMENTS), uniform(ELEMENTS, low=0.01, high=0.99), normal(ELEMENTS)
    rows, mask = normal(1000, 1000), array(rng.random((1000, 1000)) > 0.3)
    y = array(rng.integers(0, 2, ELEMENTS).astype(np.float32))
    images, masks = uniform(16, 256, 256), array(rng.integers(0, 2, (16, 256, 256)).astype(np.float32))
    corner, size = rng.random((4096, 2)) * 800, rng.random((4096, 2)) * 200 + 1
    boxes = np.concatenate([corner, corner + size], 1)
    few, near = (array(b.astype(np.float32)) for b in (boxes, boxes + rng.random(boxes.shape)))
    labels, proposals = (rng.integers(0, n, m).astype(np.int32) for n, m in ((1000, 1024), (91, 2048)))
    anchors = rng.integers(-1, 2, 20000).astype(np.int32)
    same = array(rng.integers(0, 2, 4096).astype(np.float32))
    logits, likely = normal(1024, 1000), of.softmax(normal(1024, 1000), -1)
    frames = of.log_softmax(normal(1600, 40))
    frames = array(np.asarray(frames).reshape(100, 16, 40))
    texts = array(rng.integers(1, 40, (16, 20)).astype(np.int32))
    lengths = array(np.full(16, 100, np.int32)), array(np.full(16, 20, np.int32))
    deltas, delta_targets, regression = normal(20000, 4), normal(20000, 4), normal(2048, 364)
    box_targets, index, classes = normal(2048, 4), array(labels), array(proposals)
    masked = (lambda v: of.softmax(v, 1, where=mask)) if framework == "jax" else (
        lambda v: of.softmax(of.where(mask, v, array(np.float32(-np.inf))), 1))  # fmt: skip
    picked = {
        "jax": lambda v: of.np.mean(v, where=mask),
        "tensorflow": lambda v: of.mean(importlib.import_module("tensorflow").boolean_mask(v, mask)),
        "mindspore": lambda v: of.mean(of.np.masked_select(v, mask)),
        "numpy": lambda v: v[mask].mean(),
    }[framework]
    found: dict[str, Case] = {
        "ops.log": (ops.log, of.np.log, (x,)),
        "ops.log1p": (ops.log1p, of.np.log1p, (x,)),
        "ops.sqrt": (ops.sqrt, of.np.sqrt, (x,)),
        "ops.exp": (ops.exp, of.np.exp, (z,)),
        "ops.div": (ops.div, lambda a, b: a / b, (z, x)),
        "ops.reciprocal": (ops.reciprocal, lambda v: 1 / v, (x,)),
        "ops.pow": (lambda v: ops.pow(v, 1.7), lambda v: of.f("pow", "power")(v, 1.7), (x,)),
        "ops.acos": (ops.acos, of.f("acos", "arccos"), (p,)),
        "ops.asin": (ops.asin, of.f("asin", "arcsin"), (p,)),
        "ops.atan2": (ops.atan2, of.f("atan2", "arctan2"), (z, x)),
        "ops.norm": (lambda v: ops.norm(v, 1), of.norm, (rows,)),
        "ops.normalize": (lambda v: ops.normalize(v, 1), of.normalize, (rows,)),
        "ops.std": (lambda v: ops.std(v, 1), of.std, (rows,)),
        "ops.var": (lambda v: ops.var(v, 1), of.var, (rows,)),
        "ops.standardize": (lambda v: ops.standardize(v, 1), lambda v: (v - of.row_mean(v)) / of.std(v), (rows,)),
        "ops.logsumexp": (lambda v: ops.logsumexp(v, 1), lambda v: of.logsumexp(v, 1), (rows,)),
        "ops.softmax": (lambda v: ops.softmax(v, 1), lambda v: of.softmax(v, 1), (rows,)),
        "ops.softmax, mask": (lambda v: ops.softmax(v, 1, mask), masked, (rows,)),
        "ops.masked_mean": (lambda v: ops.masked_mean(v, mask), picked, (rows,)),
        "binary_cross_entropy": (
            lambda v: losses.binary_cross_entropy(v, y), lambda v: of.bce_of_p(v, y), (p,)),
        "binary_cross_entropy_with_logits": (
            lambda v: losses.binary_cross_entropy_with_logits(v, y), lambda v: of.mean(of.bce(v, y)), (z,)),
        "cross_entropy": (
            lambda v: losses.cross_entropy(v, index), lambda v: of.cross_entropy(v, index), (logits,)),
        "cross_entropy, 91 classes": (
            lambda v: losses.cross_entropy(v, classes), lambda v: of.cross_entropy(v, classes), (normal(2048, 91),)),
        "categorical_cross_entropy": (
            lambda v: losses.categorical_cross_entropy(v, index),
            lambda v: -of.mean(of.np.log(of.pick(v, index))), (likely,)),
        "focal_loss": (lambda v: losses.focal_loss(v, y), lambda v: of.focal(v, y), (z,)),
        "dice_loss": (lambda v: losses.dice_loss(v, masks), lambda v: of.dice(v, masks), (images,)),
        "jaccard_loss": (lambda v: losses.jaccard_loss(v, masks), lambda v: of.jaccard(v, masks), (images,)),
        "smooth_l1_loss": (
            lambda v: losses.smooth_l1_loss(v, half), lambda v: of.mean(of.huber(v, half)), (z,)),
        "relative_error_loss": (
            lambda v: losses.relative_error_loss(v, half),
            lambda v: of.mean((v - half) * (v - half) / of.np.abs(v - half)), (z,)),
        "gaussian_nll_loss": (
            lambda m, v: losses.gaussian_nll_loss(m, y, v), lambda m, v: of.nll(m, y, v), (z, half)),
        "kl_divergence_normal": (
            losses.kl_divergence_normal, lambda m, v: of.mean(-0.5 * (1 + v - m * m - of.np.exp(v))), (z, half)),
        "contrastive_loss": (
            lambda a, b: losses.contrastive_loss(a, b, same), lambda a, b: of.contrastive(a, b, same),
            (normal(4096, 128), normal(4096, 128))),
        "info_nce_loss": (losses.info_nce_loss, of.info_nce, (normal(512, 128), normal(512, 128))),
        "rpn_loss": (
            lambda o, d: sum(losses.rpn_loss(o, d, array(anchors), delta_targets).values()),
            lambda o, d: of.rpn(o, d, anchors, delta_targets), (normal(20000), deltas)),
        "fast_rcnn_loss": (
            lambda c, r: sum(losses.fast_rcnn_loss(c, r, classes, box_targets).values()),
            lambda c, r: of.fast_rcnn(c, r, proposals, box_targets), (normal(2048, 91), regression)),
    }  # fmt: skip
    for name in ("iou", "giou", "diou", "ciou"):
        part, plain = getattr(losses, f"{name}_loss"), getattr(of, name)
        found[f"{name}_loss"] = (lambda v, f=part: f(v, near), lambda v, f=plain: f(v, near), (few,))
    if framework != "numpy":
        found["ctc_loss"] = (
            lambda v: losses.ctc_loss(v, texts, *lengths), lambda v: of.ctc(v, texts, lengths), (frames,))  # fmt: skip
    return found


def step_of(framework: str, function: Callable[..., Any], inputs: tuple[Any, ...], how: str) -> Callable[[], Any]:
    """Return one forward and backward pass, which waits for its result."""
    if framework == "numpy":
        return lambda: function(*inputs)
    if framework == "jax":
        import jax
        import jax.numpy as jnp

        def both(*xs: Any) -> Any:
            value, backward = jax.vjp(function, *xs)
            return value, backward(jnp.ones_like(value))

        run = both if how == "eager" else jax.jit(both)
        return lambda: jax.block_until_ready(run(*inputs))
    if framework == "tensorflow":
        import tensorflow as tf

        def taped(*xs: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(xs)
                value = function(*xs)
            return value, tape.gradient(value, xs)

        graph = taped if how == "eager" else tf.function(taped, autograph=False, jit_compile=how == "xla")
        return lambda: graph(*inputs)
    import mindspore

    def total(*xs: Any) -> Any:
        value = function(*xs)
        return value if value.ndim == 0 else value.sum()

    gradient = mindspore.value_and_grad(total, tuple(range(len(inputs))))

    def waited() -> None:
        value, gradients = gradient(*inputs)
        value.asnumpy()
        for one in gradients if isinstance(gradients, tuple) else (gradients,):
            one.asnumpy()

    return waited


def compare(framework: str, case: Case, rounds: int, how: str) -> tuple[float, float, float]:
    """Return the ratio of the fastest times, that of the medians, and the fastest seconds of the plain counterpart."""
    part, plain, inputs = case
    steps = [step_of(framework, function, inputs, how) for function in (part, plain)]
    times: list[list[float]] = [[], []]
    for step in steps:
        for _ in range(3):
            step()
    start = time.process_time()
    steps[1]()
    repeats = max(1, min(200, int(0.01 / max(time.process_time() - start, 1e-5))))
    for round_ in range(rounds):
        for side in (0, 1) if round_ % 2 else (1, 0):
            start = time.process_time()
            for _ in range(repeats):
                steps[side]()
            times[side].append((time.process_time() - start) / repeats)
    fast, middle = [min(t) for t in times], [statistics.median(t) for t in times]
    return fast[0] / fast[1], middle[0] / middle[1], fast[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=("jax", "tensorflow", "mindspore", "numpy"))
    parser.add_argument("parts", nargs="*", metavar="PART", help="only these")
    parser.add_argument("--rounds", type=int, help="15 if not given, for MindSpore 7")
    parser.add_argument("--eager", action="store_true", help="both sides without jit")
    parser.add_argument("--xla", action="store_true", help="TensorFlow: both sides under jit_compile=True")
    options = parser.parse_args()
    if not set(KEPT) <= set(os.environ):
        os.environ.update(KEPT, JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS="1")
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if options.framework != "mindspore":  # Its threads wait for each other actively.
        # Before a framework is imported, so that it makes one thread of its own.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["KERAS_BACKEND"], os.environ["TF_CPP_MIN_LOG_LEVEL"] = "tensorflow", "3"
    np.seterr(all="ignore")
    module = importlib.import_module(options.framework)
    if options.framework == "mindspore":  # More threads wait for each other actively: their time says nothing.
        module.set_context(runtime_num_threads=1)
    rounds = options.rounds or (7 if options.framework == "mindspore" else 15)
    how = {"numpy": "forward", "mindspore": "PyNative"}.get(options.framework, "compiled")
    how = "eager" if options.eager else "xla" if options.xla else how
    print(f"{options.framework} {module.__version__}, one processor, {how}")
    print(f"{'part':36} {'ratio':>6} {'median':>6} {'plain ms':>9}")
    for name, case in cases(options.framework).items():
        if not options.parts or name in options.parts:
            print(f"{name:36}", end=" ", flush=True)
            try:
                ratio, middle, plain = compare(options.framework, case, rounds, how)
            except Exception as error:  # One counterpart that a framework has no kernel for is no reason to stop.
                print(f"{type(error).__name__}: {str(error).splitlines()[0][:70]}", flush=True)
                continue
            print(f"{ratio:6.2f} {middle:6.2f} {1e3 * plain:9.3f}", flush=True)


if __name__ == "__main__":
    main()
