"""The plain lines of a part, where its arguments lie where those are exact: NumPy looks at numbers as it computes.

Each function here is named like its formula and takes those of its arguments that it knows. It returns the result, or
None where the formula is to be asked; that is asked as well where the processor reports an overflow, a division by zero
or an invalid operation. What no report tells, subnormal numbers and cancellation, is looked for in what is reduced
already.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from whynan.formulas.backend import LIMITS, Array, Axis, Limits, axes_of, bind
from whynan.formulas.losses.classification import cross_entropy
from whynan.numpy.backend import XP, NumPy

# How small a variance may be, next to the square of the mean, for deviations right to a few units.
STANDARD = 1 / 64
FLOATS = (np.dtype("float32"), np.dtype("float64"))
SIMPLE = (int, float, bool, str, tuple, type(None))


def part(formula: Callable[..., Any], names: dict[str, str], **defaults: Any) -> Callable[..., Any]:
    """Return a formula as a part of NumPy, with its plain lines before it; those are for float32 and float64."""
    lines = globals().get(formula.__name__)
    if lines is None:
        return bind(XP, formula, names, **defaults)
    parameters = inspect.signature(lines).parameters
    places = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())

    @functools.wraps(formula)
    def function(xp: NumPy, *args: Any, **given: Any) -> Any:
        if len(args) <= places and given.keys() <= parameters.keys() and suit(*args, *given.values()):
            try:
                with np.errstate(divide="raise", over="raise", invalid="raise", under="ignore"):
                    result = lines(*args, **given)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                result = None  # The formula computes it, or finds the words for the error.
            if result is not None:
                return result
        return formula(xp, *args, **given)

    return bind(XP, function, names, **defaults)


def suit(*args: Any) -> bool:
    """Return whether arguments begin with an array of float32 or float64, and no other float has another dtype."""
    dtype = getattr(args[0], "dtype", None)
    return dtype in FLOATS and all(type(x) in SIMPLE or agrees(x, dtype) for x in args)


def agrees(x: Any, dtype: Any) -> bool:
    return type(x) is np.ndarray and x.size > 0 < x.ndim and (x.dtype == dtype or x.dtype.kind in "iub")


def limits(x: Array) -> Limits:
    return LIMITS[x.dtype.name]


def normal(x: Array) -> bool:
    """Return whether sums of squares are so far from the ends of the dtype that no square was lost in them."""
    return bool(x.min() >= limits(x).tiny / limits(x).eps and x.max() <= limits(x).max)


def reduced(loss: Array, reduction: str) -> Any:
    """Return a loss reduced, None where a number of it is not finite."""
    value = loss.mean() if reduction == "mean" else loss.sum() if reduction in ("sum", "none") else math.nan
    return (loss if reduction == "none" else value) if math.isfinite(value) else None


def target_of(x: Array, y: Array) -> Array:
    """Return targets in the dtype and of the shape of x."""
    if x.shape != y.shape:
        raise ValueError
    return y.astype(x.dtype, copy=False)


# --- operations -----------------------------------------------------------------------------------------------------


def log(x: Array) -> Any:
    return np.log(x) if x.min() >= limits(x).tiny else None


def exp(x: Array) -> Any:
    # The exponential of infinity is reported by no one.
    return np.exp(x) if x.max() <= limits(x).log_max else None


def div(a: Array, b: Array) -> Any:
    return a / np.asarray(b, a.dtype)


def reciprocal(x: Array) -> Any:
    return 1 / x


def pow(x: Array, exponent: Array) -> Any:
    result = np.power(x, np.asarray(exponent, x.dtype))
    return result if np.isfinite(result).all() else None


def atan2(y: Array, x: Array) -> Any:
    return np.arctan2(y, np.asarray(x, y.dtype))


log1p, sqrt, acos, asin = (lambda x, f=f: f(x) for f in (np.log1p, np.sqrt, np.arccos, np.arcsin))


def mean(x: Array, dim: Axis = None, keepdim: bool = False) -> Any:
    result = x.mean(axes_of(dim), keepdims=keepdim)
    return result if np.isfinite(result).all() else None


def norm(x: Array, dim: Axis = None, *, keepdim: bool = False) -> Any:
    squares = np.add.reduce(x * x, axes_of(dim), keepdims=keepdim)
    return np.sqrt(squares) if normal(squares) else None


def normalize(x: Array, dim: Axis = -1) -> Any:
    length = norm(x, dim, keepdim=True)
    return None if length is None else x / length


def spread(x: Array, dim: Axis, correction: float, least: float) -> tuple[Array, Array]:
    """Return deviations and variance, dimensions kept, where that is at least `least` times the square of the mean."""
    middle = x.mean(axes_of(dim), keepdims=True)
    deviation = x - middle
    squares = deviation * deviation if least == STANDARD else np.multiply(deviation, deviation, out=deviation)
    squares = np.add.reduce(squares, axes_of(dim), keepdims=True)
    squares /= x.size // squares.size - correction
    # Nearly equal numbers: their deviations are as large as the rounding of the mean.
    if not (normal(squares) and (squares >= least * middle * middle).all()):
        raise ArithmeticError
    return deviation, squares


def var(x: Array, dim: Axis = None, *, correction: float = 1.0, keepdim: bool = False) -> Any:
    squares = spread(x, dim, correction, 16 * limits(x).eps)[1]
    return squares if keepdim else squares.squeeze(axes_of(dim))[()]


def std(x: Array, dim: Axis = None, *, correction: float = 1.0, keepdim: bool = False) -> Any:
    return np.sqrt(var(x, dim, correction=correction, keepdim=keepdim))


def standardize(x: Array, dim: Axis = None, *, correction: float = 1.0) -> Any:
    deviation, squares = spread(x, dim, correction, STANDARD)
    deviation /= np.sqrt(squares)
    return deviation


def softmax(x: Array, dim: int = -1, mask: Any = None) -> Any:
    if mask is not None:
        x = np.where(mask.astype(bool, copy=False), x, np.asarray(-np.inf, x.dtype)).reshape(x.shape)
    # A row without any has no largest number: the processor reports inf - inf.
    weights = x - x.max(dim, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(dim, keepdims=True)
    return weights


# --- losses ---------------------------------------------------------------------------------------------------------


def binary_cross_entropy(p: Array, y: Array, *, reduction: str = "mean") -> Any:
    y = target_of(p, y)
    if not p.min() >= limits(p).tiny:
        return None
    loss = np.log(p)
    loss *= y
    other = np.negative(p)
    np.log1p(other, out=other)
    other *= 1 - y
    loss += other
    return reduced(np.negative(loss, out=loss), reduction)


def entropy_of_logits(x: Array, y: Array, small: Array) -> Array:
    """softplus(x) - x y without cancellation; `small` is exp(-|x|), and is overwritten."""
    np.log1p(small, out=small)
    other = (x > 0).astype(x.dtype)
    other -= y
    other *= x
    small += other
    return small


def binary_cross_entropy_with_logits(x: Array, y: Array, *, reduction: str = "mean") -> Any:
    y = target_of(x, y)
    small = np.abs(x)
    np.exp(np.negative(small, out=small), out=small)
    return reduced(entropy_of_logits(x, y, small), reduction)


def categorical_cross_entropy(p: Array, target: Array, *, dim: int = -1, reduction: str = "mean") -> Any:
    if p.ndim != 2 or dim not in (1, -1) or target.shape != p.shape[:1] or target.dtype.kind not in "iu":
        return None
    if target.min() < 0:
        return None
    picked = p[np.arange(len(p)), target]
    if not (picked.min() >= limits(p).tiny and picked.max() <= 1):
        return None
    return reduced(-np.log(picked), reduction)


def focal_loss(
    logits: Array, target: Array, alpha: Any = 0.25, gamma: float = 2.0, *, dim: int = -1, reduction: str = "mean"
) -> Any:
    y = target_of(logits, target)
    if not (y.min() >= 0 and y.max() <= 1 and 0 <= gamma <= 100 and (alpha is None or 0 <= alpha <= 1)):
        return None
    small = np.negative(logits)
    np.exp(small, out=small)
    on = 1 + small
    np.divide(1, on, out=on)
    off = small * on
    rest = 1 - y
    on *= rest
    off *= y
    on += off
    np.minimum(small, np.divide(1, small, out=off), out=small)
    loss = entropy_of_logits(logits, y, small)
    on **= gamma
    loss *= on
    if alpha is not None:
        rest *= 1 - alpha
        np.multiply(y, alpha, out=off)
        rest += off
        loss *= rest
    return reduced(loss, reduction)


def dot(a: Array, b: Array) -> Array:
    """Return the scalar products of rows, in parts so short that rounding does not add up."""
    rows, size = a.shape
    parts = size // 4096
    first = [x[:, : parts * 4096].reshape(rows, parts, 1, 4096) for x in (a, b)]
    last = [x[:, None, parts * 4096 :] for x in (a, b)]
    both = [np.matmul(x, y.swapaxes(-1, -2)) for x, y in (first, last)]
    return both[0].sum((1, 2, 3)) + both[1][:, 0, 0]


def tversky_loss(p: Array, y: Array, alpha: float = 0.5, beta: float = 0.5, *, reduction: str = "mean") -> Any:
    y = target_of(p, y)
    shape = (len(p) if p.ndim > 1 else 1, -1)
    if not (0 <= alpha <= 100 and 0 <= beta <= 100):
        return None
    p, y = p.reshape(shape), y.reshape(shape)
    rest = 1 - y
    missed = alpha * dot(p, rest)
    np.subtract(1, p, out=rest)
    missed += beta * dot(rest, y)
    whole = dot(p, y) + missed
    return reduced(np.divide(missed, whole, out=np.zeros_like(whole), where=whole != 0), reduction)


def dice_loss(p: Array, y: Array, *, reduction: str = "mean") -> Any:
    return tversky_loss(p, y, reduction=reduction)


def jaccard_loss(p: Array, y: Array, *, reduction: str = "mean") -> Any:
    return tversky_loss(p, y, 1.0, 1.0, reduction=reduction)


def huber(difference: Array, beta: float) -> Array:
    """Smooth L1 of a difference, which is overwritten, without a choice for each number."""
    if not 1e-6 <= beta <= 1e6:
        raise ValueError
    np.abs(difference, out=difference)
    near = np.clip(difference, 0, beta)
    difference -= 0.5 * near
    near /= beta
    near *= difference
    return near


def smooth_l1_loss(pred: Array, target: Array, beta: float = 1.0, *, reduction: str = "mean") -> Any:
    return reduced(huber(pred - target_of(pred, target), beta), reduction)


def relative_error_loss(pred: Array, target: Array, *, reduction: str = "mean") -> Any:
    difference = pred - target_of(pred, target)
    return reduced(np.abs(difference, out=difference), reduction)


def gaussian_nll_loss(mean: Array, target: Array, log_var: Array, *, reduction: str = "mean") -> Any:
    difference = mean - target_of(mean, target)
    difference *= difference
    loss = np.negative(target_of(mean, log_var))
    np.exp(loss, out=loss)
    loss *= difference
    loss += log_var
    loss *= 0.5
    return reduced(loss, reduction)


def kl_divergence_normal(mean: Array, log_var: Array, *, reduction: str = "mean") -> Any:
    # Near the prior the difference cancels: there the formula sums a series.
    least = {"mean": 1 / 8, "sum": mean.size / 8}[reduction]
    loss = np.expm1(target_of(mean, log_var))
    loss -= log_var
    loss += mean * mean
    loss *= 0.5
    value = reduced(loss, reduction)
    return value if value is not None and value >= least else None


def contrastive_loss(a: Array, b: Array, same: Array, margin: float = 1.0, *, reduction: str = "mean") -> Any:
    difference = a - target_of(a, b)
    difference *= difference
    squares = np.add.reduce(difference, -1)
    if not (normal(squares) and 0 <= margin < math.inf):
        return None
    same = target_of(squares, same)
    missing = np.maximum(margin - np.sqrt(squares), 0)
    return reduced(0.5 * (same * squares + (1 - same) * (missing * missing)), reduction)


def rpn_loss(
    objectness: Array,
    deltas: Array,
    labels: Array,
    delta_targets: Array,
    beta: float = 1 / 9,
    *,
    reduction: str = "mean",
) -> Any:
    anchors = objectness.size
    kept, positive = np.flatnonzero(labels >= 0), np.flatnonzero(labels > 0)
    if labels.size != anchors or deltas.shape != (anchors, 4) or delta_targets.shape != (anchors, 4) or not len(kept):
        return None
    labels = labels.reshape(anchors)
    y = (labels[kept] > 0).astype(objectness.dtype)
    entropy = binary_cross_entropy_with_logits(objectness.reshape(anchors)[kept], y, reduction="sum")
    regression = reduced(huber(deltas[positive] - delta_targets[positive], beta), "sum")
    if reduction not in ("mean", "sum") or entropy is None or regression is None:
        return None
    count = np.asarray(len(kept) if reduction == "mean" else 1, objectness.dtype)
    return {"loss_objectness": entropy / count, "loss_rpn_box_reg": regression / count}


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
    boxes = box_regression.reshape(proposals, -1, 4)
    if labels.min() < 0 or boxes.shape[1] not in (1, classes) or regression_targets.shape != (proposals, 4):
        return None
    positive = np.flatnonzero(labels > 0)
    own = labels[positive] if boxes.shape[1] > 1 else 0
    regression = reduced(huber(boxes[positive, own] - regression_targets[positive], beta), "sum")
    if regression is None or reduction not in ("mean", "sum"):
        return None
    count = np.asarray(proposals if reduction == "mean" else 1, regression.dtype)
    entropy = cross_entropy(XP, class_logits, labels, reduction=reduction)
    return {"loss_classifier": entropy, "loss_box_reg": regression / count}


def overlap_loss(kind: str, boxes: Array, targets: Array, reduction: str) -> Any:
    if boxes.shape[-1] != 4:
        return None
    a, b = (np.ascontiguousarray(np.moveaxis(x, -1, 0)) for x in (boxes, target_of(boxes, targets)))
    size, other = a[2:] - a[:2], b[2:] - b[:2]
    if not (size.min() >= 0 and other.min() >= 0):
        return None
    inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    np.maximum(inner, 0, out=inner)
    overlap = inner[0] * inner[1]
    union = size[0] * size[1] + other[0] * other[1] - overlap
    if not normal(union):
        return None
    loss = (union - overlap) / union
    if kind != "iou":
        hull = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
    if kind == "giou":
        area = hull[0] * hull[1]
        return reduced(loss + (area - union) / area, reduction)
    aspect = None
    if kind == "ciou":
        turn = np.arctan2(other[0], other[1]) - np.arctan2(size[0], size[1])
        aspect = (4 / math.pi**2) * turn * turn
        aspect *= aspect / (loss + aspect)
    if kind != "iou":
        apart = 0.5 * (a[:2] + a[2:]) - 0.5 * (b[:2] + b[2:])
        loss += (apart[0] * apart[0] + apart[1] * apart[1]) / (hull[0] * hull[0] + hull[1] * hull[1])
    return reduced(loss if aspect is None else loss + aspect, reduction)


def _of(kind: str) -> Callable[..., Any]:
    return lambda boxes, targets, *, reduction="mean": overlap_loss(kind, boxes, targets, reduction)


iou_loss, giou_loss, diou_loss, ciou_loss = (_of(kind) for kind in ("iou", "giou", "diou", "ciou"))
