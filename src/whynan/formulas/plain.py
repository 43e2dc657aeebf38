"""Plain forms of formulas, and when they are exact, for frameworks that run one of two ways (`Backend.choose`).

A look costs what the plain form sums up anyway: where its sums are of comfortable size, no element was near an edge.
"""

import functools
import inspect
import math
from collections.abc import Callable
from types import SimpleNamespace as Static
from typing import Any

from whynan.formulas.backend import LIMITS, Array, Arrays, Backend, Plain
from whynan.formulas.losses.classification import along, class_shapes, expand, is_class_index
from whynan.formulas.numbers import agree, flatten_dims, larger, limit_of, size_of, smaller
from whynan.formulas.reductions import drop_dims, finite_max


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
    return drop_dims(xp, x, axes_of(arrays[0], static), static.keepdim)


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
        "int" not in xp.dtype(arrays[0])
        and all(agree(shape, shapes[0]) for shape in shapes)
        and static.reduction in ("mean", "sum")
        and not static.validate
        and getattr(static, "weight", None) is None
        and getattr(static, "ignore_index", None) is None
        and not getattr(static, "label_smoothing", 0)
    )


def alike(xp: Backend, arrays: Arrays) -> Arrays:
    """Return integers as floats: the targets of a batch may be."""
    return tuple(xp.cast(x, xp.dtype(arrays[0])) for x in arrays)


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
        p, y = alike(xp, arrays)
        alpha, beta, smooth = weights(static)
        axes = tuple(range(1, len(p.shape)))
        hit = xp.sum(p * y, axes, True)
        missed = alpha * (xp.sum(p, axes, True) - hit) + beta * (xp.sum(y, axes, True) - hit)
        whole = hit + missed + smooth
        # Where little is missed the differences cancel.
        exact = every(xp, (missed > 0.05 * whole) & within(whole))
        value = xp.sum(missed / whole) * share_of(xp, missed, static)
        return exact & is_number(xp, value), value

    return Plain(("p", "y"), fits, look)


Function = Callable[..., Any]


def summed(
    names: tuple[str, ...], value: Function, fits: Function = bare, slopes: Function | None = None,
    known: Function | None = None, shared: Function = lambda xp, *arrays: (),
) -> Plain:  # fmt: skip
    """A sum of value(xp, static, *arrays) over elements, and its slopes.

    `known` tells from the sum and the number of elements whether it is exact, which else it is where it is a number.
    `shared(xp, *arrays)` is what both take as further arrays.
    """

    def look(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
        arrays = alike(xp, arrays)
        both = shared(xp, *arrays)
        whole = xp.sum(value(xp, static, *arrays, *both))
        result = whole * share_of(xp, arrays[0], static)
        exact = is_number(xp, result)
        return exact & known(whole, xp.size(arrays[0])) if known else exact, result, *both

    def slopes_of(xp: Backend, gradient: Array, arrays: Arrays, static: Static, _: Array, *both: Array) -> Arrays:
        assert slopes is not None
        gradient = gradient * share_of(xp, arrays[0], static)
        return tuple(slope * gradient for slope in slopes(xp, static, *alike(xp, arrays), *both))

    return Plain(names, fits, look, slopes=slopes_of if slopes else None)


def tail(xp: Backend, x: Array, y: Array) -> Arrays:
    return (xp.exp(-xp.abs(x)),)


def logit_slopes(xp: Backend, static: Static, x: Array, y: Array, small: Array) -> Arrays:
    rest = small / (1 + small)
    return xp.where(x > 0, (1 - y) - rest, rest - y), -x


def huber(xp: Backend, static: Static, pred: Array, target: Array) -> Array:
    size = xp.abs(pred - target)
    near = smaller(xp, size, static.beta)
    return near / static.beta * (size - 0.5 * near)


def huber_slopes(xp: Backend, static: Static, pred: Array, target: Array) -> Arrays:
    slope = xp.clip((pred - target) / static.beta, 1.0)
    return slope, -slope


def focal_parts(xp: Backend, x: Array, y: Array, small: Array) -> Arrays:
    """Return the cross-entropy, 1 - p_t, and the sigmoids of x and -x, none of which cancels."""
    large = 1 / (1 + small)
    p, q = xp.where(x > 0, large, small * large), xp.where(x > 0, small * large, large)
    return xp.where(x > 0, x * (1 - y), -x * y) + xp.log1p(small), p * (1 - y) + q * y, p, q


def balance(static: Static, y: Array) -> Array:
    return 1.0 if static.alpha is None else (2 * static.alpha - 1) * y + (1 - static.alpha)


def focal(xp: Backend, static: Static, x: Array, y: Array, small: Array) -> Array:
    entropy, miss, _, _ = focal_parts(xp, x, y, small)
    # No number where a target is none, or to be ignored.
    return xp.where((y >= 0) & (y <= 1), entropy * miss * miss * balance(static, y), math.nan)


def focal_fits(xp: Backend, arrays: Arrays, static: Static) -> bool:
    x, y = (xp.shape(x) for x in arrays)
    usual = static.weight is None and not static.validate and static.reduction in ("mean", "sum")
    alpha = static.alpha is None or 0 <= static.alpha <= 1
    floats = "int" not in xp.dtype(arrays[0])
    return floats and agree(x, y) and usual and alpha and static.gamma == 2 and not 0 <= static.ignore_index <= 1


def focal_slopes(xp: Backend, static: Static, x: Array, y: Array, small: Array) -> Arrays:
    entropy, miss, p, q = focal_parts(xp, x, y, small)
    by_x = miss * (p * (1 - y) - q * y) + entropy * (p * q) * (2 - 4 * y)
    by_y = (2 * (q - p) * entropy - x * miss) * balance(static, y)
    if static.alpha is not None:
        by_y = by_y + (2 * static.alpha - 1) * entropy * miss
    return by_x * miss * balance(static, y), by_y * miss


def pairs_fit(xp: Backend, arrays: Arrays, static: Static) -> bool:
    a, b, same = (xp.shape(x) for x in arrays)
    return agree(a, b) and agree(a[:-1], same) and static.reduction != "none" and static.weight is None


def look_at_pairs(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    same, apart = xp.cast(arrays[2], xp.dtype(arrays[0])), arrays[0] - arrays[1]
    distance = xp.sqrt(xp.sum(apart * apart, (len(apart.shape) - 1,)))
    missing, same = xp.lower(static.margin - distance, 0.0), xp.stop(same)
    loss = same * (distance * distance) + (1 - same) * (missing * missing)
    value = xp.sum(loss) * (0.5 * share_of(xp, distance, static))
    return every(xp, within(distance)) & is_number(xp, value), value


def classes_fit(xp: Backend, arrays: Arrays, static: Static) -> bool:
    logits, target = arrays
    if not is_class_index(xp, logits, target):
        return False
    class_shapes(xp, logits, target, static.dim)
    usual = static.weight is None and not getattr(static, "label_smoothing", 0) and not static.validate
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
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = ([x[..., i] for i in range(4)] for x in alike(xp, arrays))
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
        share = share_of(xp, loss, static)
        known = xp.sum(xp.where(exact, xp.stop(loss), math.nan)) * share
        return is_number(xp, known), xp.sum(loss) * share

    return Plain(("boxes", "targets"), boxes_fit, look)


def look_at_probabilities(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    p, target = arrays[0], xp.cast(arrays[1], "int32")
    dim = static.dim % len(p.shape)
    kept = expand(xp, target != static.ignore_index, dim)
    # A gradient stops before it is one among zeros.
    picked = xp.saturate_gradient(xp.take(p, xp.where(kept, expand(xp, target, dim), 0), dim), limit_of(xp, p))
    picked = xp.where(kept, picked, 1.0)
    count = xp.sum(xp.where(kept, xp.stop(picked) * 0.0 + 1, 0.0)) if static.reduction == "mean" else 1.0
    value = -xp.sum(xp.log(picked)) / count
    return every(xp, (picked >= LIMITS[xp.dtype(p)].tiny) & (picked <= 1)) & is_number(xp, value), value


def indexed(xp: Backend, arrays: Arrays, static: Static) -> bool:
    return static.reduction != "none" and "int" in xp.dtype(arrays[-1])


def kept_share(xp: Backend, labels: Array, like: Array, static: Static) -> Array:
    count = xp.sum(xp.cast(labels >= 0, xp.dtype(like)))
    return 1 / count if static.reduction == "mean" else count * 0 + 1


def look_at_objectness(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    logits, labels = arrays
    small = xp.exp(-xp.abs(logits))
    entropy = xp.lower(xp.where(labels > 0, -logits, logits), 0.0) + xp.log1p(small)
    share = kept_share(xp, labels, logits, static)
    value = xp.sum(xp.where(labels >= 0, entropy, 0.0)) * share
    return is_number(xp, value), value, small, share


def objectness_slopes(
    xp: Backend, gradient: Array, arrays: Arrays, static: Static, value: Array, small: Array, share: Array
) -> Arrays:
    logits, labels = arrays
    # 1 - p of what is labelled, small / (1 + small) where that is small.
    miss = xp.where((logits > 0) == (labels > 0), small, 1.0) / (1 + small)
    gradient = gradient * share
    return (xp.where(labels >= 0, miss * xp.where(labels > 0, -gradient, gradient), 0.0),)


def look_at_regression(xp: Backend, arrays: Arrays, static: Static) -> Arrays:
    deltas, targets, labels = arrays
    size = xp.abs(deltas - targets)
    near = smaller(xp, size, static.beta)
    share = kept_share(xp, labels, deltas, static) / static.beta
    value = xp.sum(xp.where((labels > 0)[:, None], near * (size - 0.5 * near), 0.0)) * share
    return is_number(xp, value), value, share


def regression_slopes(
    xp: Backend, gradient: Array, arrays: Arrays, static: Static, value: Array, share: Array
) -> Arrays:
    deltas, targets, labels = arrays
    slope = xp.where((labels > 0)[:, None], xp.clip(deltas - targets, static.beta) * (gradient * share), 0.0)
    return slope, -slope


PLAIN: dict[str, Plain] = {
    "objectness_loss": Plain(
        ("logits", "labels"), indexed, look_at_objectness, slopes=objectness_slopes, bounded=True),
    "regression_loss": Plain(
        ("deltas", "targets", "labels"), lambda xp, a, s: indexed(xp, a, s) and 1e-12 < s.beta < 1e12,
        look_at_regression, slopes=regression_slopes, bounded=True),
    "dice_loss": overlap(lambda s: (0.5, 0.5, s.smooth / 2)),
    "jaccard_loss": overlap(lambda s: (1.0, 1.0, s.smooth)),
    "tversky_loss": overlap(lambda s: (s.alpha, s.beta, s.smooth)),
    # Near the prior the differences of a divergence cancel.
    "kl_divergence_normal": summed(
        ("mean", "log_var"), lambda xp, s, mean, log_var: 0.5 * (xp.exp(log_var) - 1 - log_var + mean * mean),
        slopes=lambda xp, s, mean, log_var: (mean, 0.5 * (xp.exp(log_var) - 1)),
        known=lambda whole, count: whole > 0.125 * count),
    "gaussian_nll_loss": summed(
        ("mean", "target", "log_var"),
        lambda xp, s, mean, target, log_var: 0.5 * (log_var + (mean - target) * (mean - target) * xp.exp(-log_var)),
        lambda xp, a, s: not s.full and bare(xp, a, s)),
    "binary_cross_entropy": summed(
        ("p", "y"), lambda xp, s, p, y: (y - 1) * xp.log1p(-p) - y * xp.log(p),
        slopes=lambda xp, s, p, y: ((1 - y) / (1 - p) - y / p, xp.log1p(-p) - xp.log(p))),
    "binary_cross_entropy_with_logits": summed(
        ("x", "y"), lambda xp, s, x, y, small: xp.lower(x, 0.0) - x * y + xp.log1p(small),
        lambda xp, a, s: s.pos_weight is None and bare(xp, a, s), logit_slopes, shared=tail),
    "smooth_l1_loss": summed(
        ("pred", "target"), huber,
        lambda xp, a, s: s.sigma is None and 1e-12 < s.beta < 1e12 and bare(xp, a, s), huber_slopes),
    "focal_loss": summed(("logits", "target"), focal, focal_fits, focal_slopes, shared=tail),
    "relative_error_loss": summed(
        ("pred", "target"), lambda xp, s, pred, target: xp.abs(pred - target),
        lambda xp, a, s: s.denominator is None and bare(xp, a, s)),
    "contrastive_loss": Plain(("a", "b", "same"), pairs_fit, look_at_pairs),
    "categorical_cross_entropy": Plain(("p", "target"), classes_fit, look_at_probabilities, bounded=True),
    "cross_entropy": Plain(("logits", "target"), classes_fit, look_at_classes, slopes=class_slopes, bounded=True),
    **{f"{kind}_loss": boxes(kind) for kind in ("iou", "giou", "diou", "ciou")},
    "norm": Plain(
        ("x",), lambda xp, a, s: s.p == 2 and known_axes(xp, a, s), look_at_length,
        lambda xp, a, s, length: kept(xp, length, a, s),
        lambda xp, g, a, s, length: (a[0] * (xp.reshape(g, xp.shape(length)) / length),)),
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
