"""Plain forms of formulas, and when they are exact, for frameworks that run one of two ways (`Backend.choose`).

A look costs what the plain form sums up anyway: where its sums are of comfortable size, no element was near an edge.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from whynan.formulas.backend import LIMITS, Array, Arrays, Backend, Plain, Static
from whynan.formulas.losses.classification import ENTROPY, along, class_shapes, expand, is_class_index
from whynan.formulas.numbers import agree, flatten_dims, larger, limit_of, size_of, smaller
from whynan.formulas.reductions import finite_max


@functools.cache
def quick(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Return the formula, by its plain form where it has one that is exact."""
    plain = PLAIN.get(formula.__name__)
    if plain is None:
        return formula
    signature = inspect.signature(formula)

    @functools.wraps(formula)
    def function(xp: Any, *args: Any, **given: Any) -> Any:
        try:
            bound = signature.bind(xp, *args, **given)
        except TypeError:
            return formula(xp, *args, **given)
        bound.apply_defaults()
        static = Static(**bound.arguments)
        arrays = tuple(xp.asarray(getattr(static, name), None) for name in plain.arrays)
        if not suits(xp, arrays) or not plain.fits(xp, arrays, static):
            return formula(xp, *args, **given)

        def by_formula(*arrays: Array) -> Any:
            return formula(**bound.arguments | dict(zip(plain.arrays, arrays, strict=True)))

        return xp.choose(plain, by_formula, arrays, static)

    return function


def suits(xp: Any, arrays: Arrays) -> bool:
    """Return whether arrays are of one dtype of floats that is no half, less integers, and have elements."""
    floats = {xp.dtype(x) for x in arrays if "int" not in xp.dtype(x)}
    return xp.chooses and (floats == {"float32"} or floats == {"float64"}) and all(
        xp.shape(x) and 0 not in static_shape(xp, x) for x in arrays)  # fmt: skip


def static_shape(xp: Backend, x: Array) -> list[int]:
    return [size for size in xp.shape(x) if isinstance(size, int)]


def every(xp: Backend, condition: Array) -> Array:
    # As numbers: a compiler adds those up faster than booleans.
    return xp.sum(xp.where(condition, 0.0, 1.0)) == 0


def within(x: Array, low: float = 2.0**-40, high: float = 2.0**40) -> Array:
    """Return where x is far from where squares overflow or vanish."""
    return (x > low) & (x < high)


# --- norms and spreads ----------------------------------------------------------------------------------------------


def axes_of(x: Array, static: Static) -> tuple[int, ...]:
    return flatten_dims(static.dim, len(x.shape))


def known_axes(xp: Backend, arrays: Arrays, static: Static) -> bool:
    shape = xp.shape(arrays[0])
    try:
        sizes = [shape[axis] for axis in axes_of(arrays[0], static)]
    except (TypeError, ValueError):
        return False
    return all(isinstance(size, int) for size in sizes) and math.prod(sizes) > getattr(static, "correction", 0)


def look_at_length(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    length = xp.sqrt(xp.sum(arrays[0] * arrays[0], axes_of(arrays[0], static), True))
    return every(xp, within(length)), length


def unit_slopes(xp: Backend, gradient: Array, arrays: Arrays, static: Static, length: Array) -> Arrays:
    (x,) = arrays
    along = xp.sum(gradient * x, axes_of(x, static), True) / (length * length)
    return ((gradient - x * along) / length,)


def look_at_spread(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    (x,) = arrays
    axes = axes_of(x, static)
    count = size_of(x.shape, axes)
    middle = xp.sum(x, axes, True) / count
    deviation = x - middle
    variance = xp.sum(deviation * deviation, axes, True) / (count - static.correction)
    spread = xp.sqrt(variance)
    # Where the spread is of the size of the mean's rounding, the mean has to be taken with more care.
    careful = xp.abs(middle) * (64 * LIMITS[xp.dtype(x)].eps) < spread
    return every(xp, within(variance) & careful), middle, spread


def kept(xp: Backend, x: Array, arrays: Arrays, static: Static) -> Array:
    """Return one number for each spread in the shape that it is asked for."""
    axes = axes_of(arrays[0], static)
    shape = xp.shape(x)
    return x if static.keepdim else xp.reshape(x, tuple(s for axis, s in enumerate(shape) if axis not in axes))


def spread_slopes(
    xp: Backend, gradient: Array, arrays: Arrays, static: Static, middle: Array, spread: Array | float
) -> Arrays:
    (x,) = arrays
    count = size_of(x.shape, axes_of(x, static)) - static.correction
    return ((x - middle) * (xp.reshape(gradient, xp.shape(middle)) / (spread * count)),)


def standard_slopes(
    xp: Backend, gradient: Array, arrays: Arrays, static: Static, middle: Array, spread: Array
) -> Arrays:
    (x,) = arrays
    axes = axes_of(x, static)
    count = size_of(x.shape, axes)
    along = xp.sum(gradient * (x - middle), axes, True) / ((count - static.correction) * spread * spread)
    return ((gradient - xp.sum(gradient, axes, True) / count - (x - middle) * along) / spread,)


# --- losses ---------------------------------------------------------------------------------------------------------


def bare(xp: Backend, arrays: Arrays, static: Static) -> bool:
    """Return whether arrays are of one shape, and nothing but a mean or a sum over them is asked for."""
    shapes = [xp.shape(x) for x in arrays]
    return (
        all(agree(shape, shapes[0]) for shape in shapes)
        and static.reduction in ("mean", "sum")
        and not static.validate
        and getattr(static, "weight", None) is None
        and getattr(static, "ignore_index", None) is None
        and not getattr(static, "label_smoothing", 0)
    )


def share_of(xp: Backend, x: Array, static: Static) -> Any:
    """Return what a sum over x is to be multiplied by."""
    return 1 / xp.size(x) if static.reduction == "mean" else 1.0


def is_number(xp: Backend, x: Array) -> Array:
    return xp.abs(x) <= limit_of(xp, x)


Weights = Callable[[Static], tuple[float, float, float]]


def overlap(weights: Weights) -> Plain:
    """1 - TP / (TP + alpha FP + beta FN), from sums."""

    def fits(xp: Backend, arrays: Arrays, static: Static) -> bool:
        return len(arrays[0].shape) > 1 and bare(xp, arrays, static)

    def look(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
        p, y = arrays
        alpha, beta, smooth = weights(static)
        axes = tuple(range(1, len(p.shape)))
        hit = xp.sum(p * y, axes, True)
        missed = alpha * (xp.sum(p, axes, True) - hit) + beta * (xp.sum(y, axes, True) - hit)
        whole = hit + missed + smooth
        share = share_of(xp, missed, static)
        inverse = share / (whole * whole)
        # Factors of whole samples are computed here, once, and not in the loop over elements.
        rest, fall = (whole - missed) * inverse, ((alpha + beta) * (whole - missed) + missed) * inverse
        # Where little is missed the differences cancel.
        exact = every(xp, (missed > 0.05 * whole) & within(whole))
        return exact, xp.sum(missed / whole) * share, alpha * rest, beta * rest, fall

    def slopes(
        xp: Backend, gradient: Array, arrays: Arrays, static: Static, value: Array, by_p: Array, by_y: Array,
        fall: Array,
    ) -> Arrays:  # fmt: skip
        p, y = arrays
        return (by_p - y * fall) * gradient, (by_y - p * fall) * gradient

    return Plain(("p", "y"), fits, look, slopes=slopes)


def look_at_divergence(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    mean, log_var = arrays
    whole = xp.sum(xp.exp(log_var) - 1 - log_var + mean * mean)
    value = whole * (0.5 * share_of(xp, mean, static))
    # Near the prior the differences cancel.
    return (whole > 0.25 * xp.size(mean)) & (whole < limit_of(xp, mean)), value


def divergence_slopes(xp: Backend, gradient: Array, arrays: Arrays, static: Static, value: Array) -> Arrays:
    mean, log_var = arrays
    gradient = gradient * share_of(xp, mean, static)
    return mean * gradient, (xp.exp(log_var) - 1) * (0.5 * gradient)


def look_at_likelihood(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    mean, target, log_var = arrays
    difference = mean - target
    whole = xp.sum(log_var + difference * difference * xp.exp(-log_var))
    return is_number(xp, whole), whole * (0.5 * share_of(xp, mean, static))


def likelihood_slopes(xp: Backend, gradient: Array, arrays: Arrays, static: Static, value: Array) -> Arrays:
    mean, target, log_var = arrays
    gradient = gradient * share_of(xp, mean, static)
    difference = mean - target
    scaled = difference * xp.exp(-log_var)
    return scaled * gradient, scaled * -gradient, (1 - difference * scaled) * (0.5 * gradient)


def look_at_probabilities(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    p, y = arrays
    value = -xp.sum(y * xp.log(p) + (1 - y) * xp.log1p(-p)) * share_of(xp, p, static)
    return is_number(xp, value), value


def probability_slopes(xp: Backend, gradient: Array, arrays: Arrays, static: Static, value: Array) -> Arrays:
    p, y = arrays
    gradient = gradient * share_of(xp, p, static)
    return ((1 - y) / (1 - p) - y / p) * gradient, (xp.log1p(-p) - xp.log(p)) * gradient


def pairs_fit(xp: Backend, arrays: Arrays, static: Static) -> bool:
    a, b, same = (xp.shape(x) for x in arrays)
    return agree(a, b) and agree(a[:-1], same) and static.reduction != "none" and static.weight is None


def look_at_pairs(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    same, apart = xp.cast(arrays[2], xp.dtype(arrays[0])), arrays[0] - arrays[1]
    distance = xp.sqrt(xp.sum(apart * apart, (len(apart.shape) - 1,)))
    missing = xp.lower(static.margin - distance, 0.0)
    share = share_of(xp, distance, static)
    value = xp.sum(same * (distance * distance) + (1 - same) * (missing * missing)) * (0.5 * share)
    along = (same - (1 - same) * (missing / distance)) * share
    return every(xp, within(distance)) & is_number(xp, value), value, along, apart


def pair_slopes(
    xp: Backend, gradient: Array, arrays: Arrays, static: Static, value: Array, along: Array, apart: Array
) -> Arrays:
    slope = apart * (gradient * along[..., None])
    return slope, -slope, arrays[2] * 0


def classes_fit(xp: Backend, arrays: Arrays, static: Static) -> bool:
    logits, target = arrays
    if not is_class_index(xp, logits, target):
        return False
    class_shapes(xp, logits, target, static.dim)
    usual = static.weight is None and not static.label_smoothing and not static.validate
    return usual and static.reduction in ("mean", "sum")


def look_at_classes(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    # Keras hands class indices over as floats.
    logits, target = arrays[0], xp.cast(arrays[1], "int32")
    dim = static.dim % len(logits.shape)
    kept = expand(xp, target != static.ignore_index, dim)
    index = xp.where(kept, expand(xp, target, dim), 0)
    largest = finite_max(xp, logits, (dim,))
    weights = xp.exp(logits - largest)
    whole = xp.sum(weights, (dim,), True)
    count = xp.sum(xp.where(kept, xp.stop(whole) * 0.0 + 1, 0.0))
    loss = xp.sum(xp.where(kept, xp.log(whole) + (largest - xp.take(logits, index, dim)), 0.0))
    counts = xp.where(kept, xp.stop(1 / count if static.reduction == "mean" else count * 0 + 1), 0.0)
    # The loss of a confident prediction is a small difference.
    return (loss > 0.25 * count) & is_number(xp, loss), loss * xp.amax(counts), weights, counts / whole, counts, index


def class_slopes(
    xp: Backend, gradient: Array, arrays: Arrays, static: Static, loss: Array, weights: Array, inverse: Array,
    counts: Array, index: Array,
) -> Arrays:  # fmt: skip
    dim = static.dim % len(weights.shape)
    own = along(xp, xp.arange(weights.shape[dim], index), len(weights.shape), dim) == index
    slope = weights * (inverse * gradient)
    return xp.where(own, slope - counts * gradient, slope), arrays[1] * 0


def boxes_fit(xp: Backend, arrays: Arrays, static: Static) -> bool:
    return bare(xp, arrays, static) and arrays[0].shape[-1] == 4


def boxes(kind: str) -> Plain:
    """1 - IoU of boxes that all have an area of comfortable size, and its relatives."""

    def look(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = ([x[..., i] for i in range(4)] for x in arrays)
        low, high = functools.partial(smaller, xp), functools.partial(larger, xp)
        width, height, target_width, target_height = sides = ax2 - ax1, ay2 - ay1, bx2 - bx1, by2 - by1
        overlap = xp.lower(low(ax2, bx2) - high(ax1, bx1), 0.0) * xp.lower(low(ay2, by2) - high(ay1, by1), 0.0)
        union = width * height + target_width * target_height - overlap
        loss = (union - overlap) / union
        smallest = functools.reduce(low, map(xp.stop, sides))
        exact = smallest > 2.0**-30
        hull_width, hull_height = high(ax2, bx2) - low(ax1, bx1), high(ay2, by2) - low(ay1, by1)
        if kind == "giou":
            hull = hull_width * hull_height
            loss = loss + (hull - union) / hull
        elif kind != "iou":
            dx, dy = ax1 + ax2 - bx1 - bx2, ay1 + ay2 - by1 - by2
            diagonal = hull_width * hull_width + hull_height * hull_height
            distance = 0.25 * (dx * dx + dy * dy) / diagonal
            if kind == "ciou":
                turn = xp.atan2(target_width, target_height) - xp.atan2(width, height)
                aspect = (4 / math.pi**2) * turn * turn
                distance = distance + xp.stop(aspect / xp.lower(loss + aspect, 1e-30)) * aspect
            loss = loss + distance
            exact = exact & (diagonal < 2.0**60)
        known = is_number(xp, xp.sum(xp.where(exact, xp.stop(loss), math.nan)))
        return known, xp.sum(loss) * share_of(xp, loss, static)

    return Plain(("boxes", "targets"), boxes_fit, look)


def kept_share(xp: Backend, labels: Array, like: Array, static: Static) -> Array:
    count = xp.sum(xp.cast(labels >= 0, xp.dtype(like)))
    return 1 / count if static.reduction == "mean" else count * 0 + 1


def look_at_objectness(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    logits, labels = arrays
    entropy = ENTROPY.value(xp, logits, xp.cast(labels > 0, xp.dtype(logits)))
    share = kept_share(xp, labels, logits, static)
    value = xp.sum(xp.where(labels >= 0, entropy, 0.0)) * share
    return is_number(xp, value), value, share


def objectness_slopes(
    xp: Backend, gradient: Array, arrays: Arrays, static: Static, value: Array, share: Array
) -> Arrays:
    logits, labels = arrays
    slope, _ = ENTROPY.slopes(xp, logits, xp.cast(labels > 0, xp.dtype(logits)))
    return (xp.where(labels >= 0, slope * (gradient * share), 0.0),)


def look_at_regression(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    from whynan.formulas.losses.boxes import own_boxes

    deltas, targets, labels = arrays
    difference = xp.where((labels > 0)[:, None], own_boxes(xp, deltas, labels) - targets, 0.0)
    size = xp.abs(difference)
    near = smaller(xp, size, static.beta)
    value = xp.sum(near * (size - 0.5 * near)) * (kept_share(xp, labels, deltas, static) / static.beta)
    return is_number(xp, value), value


PLAIN: dict[str, Plain] = {
    "objectness_loss": Plain(
        ("logits", "labels"), lambda xp, a, s: s.reduction != "none", look_at_objectness, slopes=objectness_slopes,
        bounded=True),
    "regression_loss": Plain(
        ("deltas", "targets", "labels"), lambda xp, a, s: s.reduction != "none" and 1e-12 < s.beta < 1e12,
        look_at_regression, bounded=True),
    "dice_loss": overlap(lambda s: (0.5, 0.5, s.smooth / 2)),
    "jaccard_loss": overlap(lambda s: (1.0, 1.0, s.smooth)),
    "tversky_loss": overlap(lambda s: (s.alpha, s.beta, s.smooth)),
    "kl_divergence_normal": Plain(("mean", "log_var"), bare, look_at_divergence, slopes=divergence_slopes),
    "gaussian_nll_loss": Plain(
        ("mean", "target", "log_var"), lambda xp, a, s: not s.full and bare(xp, a, s), look_at_likelihood,
        slopes=likelihood_slopes),
    "binary_cross_entropy": Plain(("p", "y"), bare, look_at_probabilities, slopes=probability_slopes),
    "contrastive_loss": Plain(
        ("a", "b", "same"), pairs_fit, look_at_pairs, slopes=pair_slopes),
    "cross_entropy": Plain(("logits", "target"), classes_fit, look_at_classes, slopes=class_slopes, bounded=True),
    **{f"{kind}_loss": boxes(kind) for kind in ("iou", "giou", "diou", "ciou")},
    "normalize": Plain(
        ("x",), lambda xp, a, s: s.p == 2 and known_axes(xp, a, s), look_at_length,
        lambda xp, a, s, length: a[0] / length, unit_slopes),
    "std": Plain(
        ("x",), known_axes, look_at_spread, lambda xp, a, s, middle, spread: kept(xp, spread, a, s), spread_slopes),
    "var": Plain(
        ("x",), known_axes, look_at_spread, lambda xp, a, s, middle, spread: kept(xp, spread * spread, a, s),
        lambda xp, g, a, s, middle, spread: spread_slopes(xp, g, a, s, middle, 0.5)),
    "standardize": Plain(
        ("x",), known_axes, look_at_spread, lambda xp, a, s, middle, spread: (a[0] - middle) / spread,
        standard_slopes),
}  # fmt: skip
