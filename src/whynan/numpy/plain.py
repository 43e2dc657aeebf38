"""The plain lines of a part, for arguments where those are exact.

Each function has the name of its formula and takes its first arguments. Where one raises, as NumPy does at an overflow,
a division by zero or an invalid operation, the formula is asked. Subnormal numbers and cancellation, which nothing
reports, are looked for in what is reduced already.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from whynan.formulas.backend import LIMITS, Array, Axis, axes_of, bind
from whynan.formulas.losses import classification
from whynan.numpy.backend import WORDS, XP, NumPy

# So many numbers stay in the cache, and their arrays in the heap: a new large array costs more than what it holds.
BLOCK = 2**17


def part(formula: Callable[..., Any], names: dict[str, str], **defaults: Any) -> Callable[..., Any]:
    """Return a formula as a part of NumPy, with its plain lines, for float32 and float64, before it."""
    lines = globals().get(formula.__name__)
    if lines is None:
        return bind(XP, formula, names, **defaults)
    known = inspect.signature(lines).parameters
    places = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in known.values())
    loss = "reduction" in inspect.signature(formula).parameters

    @functools.wraps(formula)
    def function(xp: NumPy, *args: Any, **given: Any) -> Any:
        own = dict(given)
        how = own.pop("reduction", "mean") if loss and "reduction" not in known else ""
        if len(args) <= places and own.keys() <= known.keys() and suit(*args, *own.values()):
            try:
                with np.errstate(divide="raise", over="raise", invalid="raise", under="ignore"):
                    return reduced(lines, args, own, how) if how else lines(*args, **own)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                pass  # The formula computes it, or finds the words for the error.
        return formula(xp, *args, **given)

    return bind(XP, function, names, **defaults)


def reduced(lines: Callable[..., Array], args: tuple[Any, ...], given: dict[str, Any], how: str) -> Any:
    """Return a loss reduced; one of single elements is computed in blocks."""
    first, pieces = args[0], [args]
    if lines in ELEMENTWISE and first.size > BLOCK:
        need(all(x.shape == first.shape for x in args if type(x) is np.ndarray))
        flat = [x.reshape(-1) if type(x) is np.ndarray else x for x in args]
        blocks = (slice(start, start + BLOCK) for start in range(0, first.size, BLOCK))
        pieces = [tuple(x[block] if type(x) is np.ndarray else x for x in flat) for block in blocks]
    terms = (lines(*piece, **given) for piece in pieces)
    if how == "none":
        need(lines is not kl_divergence_normal)  # Single ones may be near the prior.
        loss = np.concatenate(list(terms))
        finite(loss.sum())
        return loss.reshape(first.shape) if lines in ELEMENTWISE else loss
    sums = [(float(term.sum()), term.size) for term in terms]
    count = {"mean": sum(size for _, size in sums), "sum": 1}[how]
    return finite(first.dtype.type(math.fsum(value for value, _ in sums) / count))


def suit(*args: Any) -> bool:
    """Return whether arguments begin with an array of float32 or float64, and no other float has another dtype."""
    dtype = getattr(args[0], "dtype", None) if args else None
    return dtype in WORDS and all(
        x.size > 0 < x.ndim and (x.dtype == dtype or x.dtype.kind in "iub")
        if type(x) is np.ndarray
        else type(x) in (int, float, bool, str, tuple, type(None))
        for x in args
    )


def need(fact: Any) -> None:
    if not fact:
        raise ArithmeticError


def finite(x: Any) -> Any:
    need(math.isfinite(x))
    return x


def like(x: Array, y: Array) -> Array:
    """Return y in the dtype of x; it must have its shape."""
    need(x.shape == y.shape)
    return y.astype(x.dtype, copy=False)


def normal(x: Array) -> Array:
    """Return sums of squares, in which none may be lost."""
    limits = LIMITS[x.dtype.name]
    need(x.min() >= limits.tiny / limits.eps and x.max() <= limits.max)
    return x


def log(x: Array) -> Any:
    need(x.min() >= LIMITS[x.dtype.name].tiny)
    return np.log(x)


def exp(x: Array) -> Any:
    need(x.max() <= LIMITS[x.dtype.name].log_max)  # At infinity nothing is reported.
    return np.exp(x)


log1p, sqrt, acos, asin = (lambda x, *, f=f: f(x) for f in (np.log1p, np.sqrt, np.arccos, np.arcsin))


def div(a: Array, b: Any) -> Any:
    return a / np.asarray(b, a.dtype)


def reciprocal(x: Array) -> Any:
    return 1 / x


def pow(x: Array, exponent: Any) -> Any:
    result = np.power(x, np.asarray(exponent, x.dtype))
    need(np.isfinite(result).all())
    return result


def atan2(y: Array, x: Any) -> Any:
    return np.arctan2(y, np.asarray(x, y.dtype))


def norm(x: Array, dim: Axis = None, *, keepdim: bool = False) -> Any:
    return np.sqrt(normal(np.add.reduce(x * x, axes_of(dim), keepdims=keepdim)))


def normalize(x: Array, dim: Axis = -1) -> Any:
    return x / norm(x, dim, keepdim=True)


def spread(x: Array, dim: Axis, correction: float, kept: bool = False) -> tuple[Array, Array]:
    """Return deviations, squared where they are not kept, and the variance with its dimensions."""
    middle = x.mean(axes_of(dim), keepdims=True)
    deviation = x - middle
    squares = np.multiply(deviation, deviation, out=None if kept else deviation)
    squares = np.add.reduce(squares, axes_of(dim), keepdims=True)
    squares /= x.size // squares.size - correction
    # Nearly equal numbers: their deviations are as large as the rounding of the mean.
    least = 1 / 64 if kept else 16 * LIMITS[x.dtype.name].eps
    need((normal(squares) >= least * middle * middle).all())
    return deviation, squares


def var(x: Array, dim: Axis = None, *, correction: float = 1.0, keepdim: bool = False) -> Any:
    squares = spread(x, dim, correction)[1]
    return squares if keepdim else squares.squeeze(axes_of(dim))[()]


def std(x: Array, dim: Axis = None, *, correction: float = 1.0, keepdim: bool = False) -> Any:
    return np.sqrt(var(x, dim, correction=correction, keepdim=keepdim))


def standardize(x: Array, dim: Axis = None, *, correction: float = 1.0) -> Any:
    deviation, squares = spread(x, dim, correction, kept=True)
    return deviation / np.sqrt(squares)


def softmax(x: Array, dim: int = -1, mask: Any = None) -> Any:
    if mask is not None:
        x = np.where(mask.astype(bool, copy=False), x, np.asarray(-np.inf, x.dtype)).reshape(x.shape)
    weights = np.exp(x - x.max(dim, keepdims=True))
    weights /= weights.sum(dim, keepdims=True)
    return weights


def binary_cross_entropy(p: Array, y: Array) -> Any:
    need(p.min() >= LIMITS[p.dtype.name].tiny)
    y = like(p, y)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def entropy(x: Array, y: Array, small: Array) -> Array:
    """softplus(x) - x y without cancellation; `small` is exp(-|x|)."""
    return ((x > 0) - y) * x + np.log1p(small)


def binary_cross_entropy_with_logits(x: Array, y: Array) -> Any:
    return entropy(x, like(x, y), np.exp(-np.abs(x)))


def categorical_cross_entropy(p: Array, target: Array, *, dim: int = -1) -> Any:
    need(p.ndim == 2 and dim in (1, -1) and target.shape == p.shape[:1] and target.min() >= 0)
    picked = p[np.arange(len(p)), target]
    need(picked.min() >= LIMITS[p.dtype.name].tiny and picked.max() <= 1)
    return -np.log(picked)


def focal_loss(logits: Array, target: Array, alpha: Any = 0.25, gamma: float = 2.0, *, dim: int = -1) -> Any:
    y = like(logits, target)
    need(y.min() >= 0 and y.max() <= 1 and 0 <= gamma <= 100 and (alpha is None or 0 <= alpha <= 1))
    small = np.exp(-logits)
    on, rest = 1 / (1 + small), 1 - y
    loss = (rest * on + small * on * y) ** gamma
    loss *= entropy(logits, y, np.minimum(small, 1 / small))
    return loss if alpha is None else loss * (rest * (1 - alpha) + y * alpha)


def dot(a: Array, b: Array) -> Array:
    """Scalar products of rows, in parts so short that rounding does not add up."""
    rows, parts = len(a), a.shape[1] // 4096
    first, other = (x[:, : parts * 4096].reshape(rows, parts, 4096) for x in (a, b))
    rest = a[:, None, parts * 4096 :] @ b[:, parts * 4096 :, None]
    return (first[:, :, None] @ other[..., None]).sum((1, 2, 3)) + rest[:, 0, 0]


def tversky_loss(p: Array, y: Array, alpha: float = 0.5, beta: float = 0.5) -> Any:
    need(0 <= alpha <= 100 and 0 <= beta <= 100)
    p, y = (x.reshape(len(p) if p.ndim > 1 else 1, -1) for x in (p, like(p, y)))
    missed = alpha * dot(p, 1 - y) + beta * dot(1 - p, y)
    whole = dot(p, y) + missed
    return np.divide(missed, whole, out=np.zeros_like(whole), where=whole != 0)


def dice_loss(p: Array, y: Array) -> Any:
    return tversky_loss(p, y)


def jaccard_loss(p: Array, y: Array) -> Any:
    return tversky_loss(p, y, 1.0, 1.0)


def smooth_l1_loss(pred: Array, target: Array, beta: float = 1.0) -> Any:
    need(1e-6 <= beta <= 1e6)
    size = np.abs(pred - like(pred, target))
    near = np.clip(size, 0, beta)
    return near / beta * (size - 0.5 * near)


def relative_error_loss(pred: Array, target: Array) -> Any:
    return np.abs(pred - like(pred, target))


def gaussian_nll_loss(mean: Array, target: Array, log_var: Array) -> Any:
    difference = mean - like(mean, target)
    return 0.5 * (difference * difference * np.exp(-like(mean, log_var)) + log_var)


def kl_divergence_normal(mean: Array, log_var: Array) -> Any:
    loss = 0.5 * (np.expm1(like(mean, log_var)) - log_var + mean * mean)
    # Near the prior the difference cancels, and the formula sums a series.
    need(loss.mean() >= 1 / 8)
    return loss


def contrastive_loss(a: Array, b: Array, same: Array, margin: float = 1.0) -> Any:
    need(0 <= margin < math.inf)
    difference = a - like(a, b)
    squares = normal(np.add.reduce(difference * difference, -1))
    missing = np.maximum(margin - np.sqrt(squares), 0)
    same = like(squares, same)
    return 0.5 * (same * squares + (1 - same) * missing * missing)


def rpn_loss(
    objectness: Array,
    deltas: Array,
    labels: Array,
    delta_targets: Array,
    beta: float = 1 / 9,
    *,
    reduction: str = "mean",
) -> Any:
    need(objectness.shape == labels.shape and deltas.shape == delta_targets.shape == (labels.size, 4))
    kept, positive = (np.flatnonzero(labels >= least) for least in (0, 1))
    count = objectness.dtype.type({"mean": len(kept), "sum": 1}[reduction])
    terms = binary_cross_entropy_with_logits(objectness[kept], labels[kept] > 0)
    boxes = smooth_l1_loss(deltas[positive], delta_targets[positive], beta)
    return {"loss_objectness": finite(terms.sum() / count), "loss_rpn_box_reg": finite(boxes.sum() / count)}


def fast_rcnn_loss(
    class_logits: Array,
    box_regression: Array,
    labels: Array,
    regression_targets: Array,
    beta: float = 1 / 9,
    *,
    reduction: str = "mean",
) -> Any:
    proposals, classes = class_logits.shape
    need(labels.min() >= 0 and regression_targets.shape == (proposals, 4))
    count = class_logits.dtype.type({"mean": proposals, "sum": 1}[reduction])
    positive = np.flatnonzero(labels)
    boxes = box_regression.reshape(proposals, classes, 4)[positive, labels[positive]]
    boxes = smooth_l1_loss(boxes, regression_targets[positive], beta)
    loss = classification.cross_entropy(XP, class_logits, labels, reduction=reduction)
    return {"loss_classifier": loss, "loss_box_reg": finite(boxes.sum() / count)}


def overlap(boxes: Array, targets: Array, kind: str) -> Any:
    need(boxes.shape[-1] == 4)
    a, b = (np.ascontiguousarray(np.moveaxis(x, -1, 0)) for x in (boxes, like(boxes, targets)))
    size, other = a[2:] - a[:2], b[2:] - b[:2]
    need(size.min() >= 0 and other.min() >= 0)
    inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    width, height = np.maximum(inner, 0, out=inner)
    shared = width * height
    union = normal(size[0] * size[1] + other[0] * other[1] - shared)
    loss = (union - shared) / union
    if kind == "iou":
        return loss
    width, height = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
    if kind == "giou":
        return loss + (width * height - union) / (width * height)
    x, y = 0.5 * (a[:2] + a[2:]) - 0.5 * (b[:2] + b[2:])
    distance = (x * x + y * y) / (width * width + height * height)
    if kind == "diou":
        return loss + distance
    turn = np.arctan2(*other) - np.arctan2(*size)
    aspect = (4 / math.pi**2) * turn * turn
    return loss + distance + aspect * aspect / (loss + aspect)


iou_loss, giou_loss, diou_loss, ciou_loss = (
    functools.partial(overlap, kind=kind) for kind in ("iou", "giou", "diou", "ciou")
)

ELEMENTWISE = (
    binary_cross_entropy, binary_cross_entropy_with_logits, focal_loss, smooth_l1_loss, relative_error_loss,
    gaussian_nll_loss, kl_divergence_normal,
)  # fmt: skip
