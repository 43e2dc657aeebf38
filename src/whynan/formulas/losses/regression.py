"""Losses of numbers: smooth L1, ratio forms, Gaussian likelihood, divergence."""

import math

from whynan.formulas import numbers
from whynan.formulas.backend import LIMITS, Array, Backend, Guarded
from whynan.formulas.elementwise import divide
from whynan.formulas.numbers import half_square, lift, lift_to, limit_of, reduce_loss, saturated, weighted


def smooth_l1_loss(
    xp: Backend,
    pred: Array,
    target: Array,
    beta: float = 1.0,
    sigma: float | None = None,
    weight: Array | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """Smooth L1 (Huber) loss: d² / (2 beta) for |d| < beta, |d| - beta / 2 beyond; for beta = 0 it is |d|.

    An empty target gives 0 with a live gradient graph.

    Args:
        pred: any shape.
        target: of the shape of pred.
        beta: where the parabola ends, at least 0.
        sigma: the other way to say it: beta = 1 / sigma².
        weight: factors of the elements, of a shape that broadcasts to that of pred.
        reduction: "mean", "sum" or "none".
        validate: raise ValueError where pred or target is not finite; waits for the device.
    """
    numbers.reduction(reduction)
    if sigma is not None:
        numbers.positive("sigma", sigma)
        beta = 1 / sigma**2
    numbers.not_negative("beta", beta)
    (pred, target), dtype = lift(xp, pred, target)
    numbers.same_shape(xp, "pred", pred, "target", target)
    if validate:
        numbers.finite(xp, pred=pred, target=target)
    loss = huber(xp, saturated(xp, pred - target), beta)
    return reduce_loss(xp, weighted(xp, loss, weight), reduction, dtype)


def huber(xp: Backend, difference: Array, beta: float) -> Array:
    size = xp.abs(difference)
    if beta < LIMITS[xp.dtype(difference)].tiny:
        return size
    near = size < beta
    inside = xp.where(near, difference, 0.0)
    return xp.where(near, 0.5 * inside * (inside / beta), size - 0.5 * beta)


def relative_error_loss(
    xp: Backend,
    pred: Array,
    target: Array,
    denominator: Array | None = None,
    weight: Array | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """Squared error in ratio to an absolute one: square(pred - target) / abs(pred - target), 0 where they are equal.

    With a denominator it is square(pred - target) / abs(denominator), 0 where that is 0. An empty target gives 0 with
    a live gradient graph.

    Args:
        pred: any shape.
        target: of the shape of pred.
        denominator: what to divide by, of the shape of pred; the difference where it is not given.
        weight: factors of the elements, of a shape that broadcasts to that of pred.
        reduction: "mean", "sum" or "none".
        validate: raise ValueError where pred or target is not finite; waits for the device.
    """
    numbers.reduction(reduction)
    (pred, target), dtype = lift(xp, pred, target)
    numbers.same_shape(xp, "pred", pred, "target", target)
    if validate:
        numbers.finite(xp, pred=pred, target=target)
    difference = saturated(xp, pred - target)
    if denominator is None:
        # d² / |d| is |d|; taken at once, neither the square overflows nor is 0 divided by 0.
        loss = xp.abs(difference)
    else:
        divisor = xp.abs(lift_to(xp, denominator, pred, xp.dtype(pred)))
        quotient = divide(xp, difference, divisor)
        loss = saturated(xp, quotient * difference)
    return reduce_loss(xp, weighted(xp, loss, weight), reduction, dtype)


def gaussian_nll_loss(
    xp: Backend,
    mean: Array,
    target: Array,
    log_var: Array,
    full: bool = False,
    weight: Array | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """Negative log-likelihood of a Gaussian, (log_var + (mean - target)² exp(-log_var)) / 2.

    It takes the logarithm of the variance, which has no wrong values. An empty target gives 0 with a live gradient
    graph.

    Args:
        mean: any shape.
        target: of the shape of mean.
        log_var: logarithm of the variance, of a shape that broadcasts to that of mean.
        full: add the constant log(2 π) / 2.
        weight: factors of the elements, of a shape that broadcasts to that of mean.
        reduction: "mean", "sum" or "none".
        validate: raise ValueError where an argument is not finite; waits for the device.
    """
    numbers.reduction(reduction)
    (mean, target, log_var), dtype = lift(xp, mean, target, log_var)
    numbers.same_shape(xp, "mean", mean, "target", target)
    if validate:
        numbers.finite(xp, mean=mean, target=target, log_var=log_var)
    mean, target, log_var = xp.broadcast(mean, target, log_var)
    limits = LIMITS[xp.dtype(mean)]
    difference = saturated(xp, mean - target)
    # In two factors, of which neither overflows where the product does not.
    quarter = log_var * -0.25
    over = quarter > limits.log_max
    factor = xp.where(over, limits.max, xp.exp(xp.where(over, 0.0, quarter)))
    scaled = saturated(xp, saturated(xp, difference * factor) * factor)
    loss = saturated(xp, 0.5 * log_var + half_square(xp, scaled))
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduce_loss(xp, weighted(xp, loss, weight), reduction, dtype)


# exp(x) - 1 - x = x² (1/2! + x/3! + x²/4! + ...), for |x| < 1; beyond it the plain form loses two bits at most.
SERIES = {"float32": 10, "float64": 18}


def exp_minus_line(xp: Backend, x: Array) -> Array:
    """exp(x) - 1 - x, at most the largest number, without the cancellation near 0."""
    limits = LIMITS[xp.dtype(x)]
    near = xp.abs(x) < 1
    small = xp.where(near, x, 0.0)
    terms = SERIES[xp.dtype(x)]
    series = small * 0.0 + 1 / math.factorial(terms + 2)
    for power in range(terms - 1, -1, -1):
        series = series * small + 1 / math.factorial(power + 2)
    over = x > limits.log_max
    far = xp.where(near | over, 1.0, x)
    return xp.where(near, small * small * series, xp.where(over, limits.max, xp.exp(far) - 1 - far))


def kl_divergence_normal(
    xp: Backend,
    mean: Array,
    log_var: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """Kullback-Leibler divergence of N(mean, exp(log_var)) from N(0, 1): (exp(log_var) - 1 - log_var + mean²) / 2.

    Accurate near the prior, where the plain form cancels. For each element: a VAE adds up its latent dimensions
    (`reduction="none"`, then a sum and a mean). No elements give 0 with a live gradient graph.

    Args:
        mean: any shape.
        log_var: logarithm of the variance, of the shape of mean.
        weight: factors of the elements, of a shape that broadcasts to that of mean.
        reduction: "mean", "sum" or "none", over elements.
        validate: raise ValueError where an argument is not finite; waits for the device.
    """
    numbers.reduction(reduction)
    (mean, log_var), dtype = lift(xp, mean, log_var)
    numbers.same_shape(xp, "mean", mean, "log_var", log_var)
    if validate:
        numbers.finite(xp, mean=mean, log_var=log_var)
    loss = xp.guarded(DIVERGENCE, mean, log_var)
    return reduce_loss(xp, weighted(xp, loss, weight), reduction, dtype)


def _divergence(xp: Backend, mean: Array, log_var: Array) -> Array:
    return saturated(xp, 0.5 * exp_minus_line(xp, log_var) + 0.5 * mean * mean)


def _divergence_slopes(xp: Backend, mean: Array, log_var: Array) -> tuple[Array, Array]:
    limits = LIMITS[xp.dtype(mean)]
    far = log_var > limits.log_max
    slope = xp.where(far, limits.max, xp.expm1(xp.where(far, 0.0, log_var)))
    over = xp.abs(0.5 * (slope - log_var) + 0.5 * mean * mean) > limit_of(xp, mean)
    return xp.where(over, 0.0, mean), xp.where(over, 0.0, 0.5 * slope)


DIVERGENCE = Guarded("divergence", _divergence, _divergence_slopes)
