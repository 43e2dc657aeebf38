"""Losses of numbers."""

import torch
from torch import Tensor
from torch.nn import functional

from whynan.formulas import numbers
from whynan.formulas.losses import regression as formulas
from whynan.formulas.numbers import reduce_loss
from whynan.torch.backend import NAMES, XP, compiled, documented, full, known, least, most, sound, whole
from whynan.torch.losses.classification import reduced
from whynan.torch.losses.kernels import DIVERGENCE, HUBER


def together(*arrays: Tensor) -> bool:
    """Return whether these are of one shape and dtype, and may be looked at."""
    return all(isinstance(x, torch.Tensor) and x.shape == arrays[0].shape for x in arrays) and whole(*arrays)


@documented(formulas.smooth_l1_loss)
def smooth_l1_loss(
    pred: Tensor,
    target: Tensor,
    beta: float = 1.0,
    sigma: float | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    if sigma is not None:
        numbers.positive("sigma", sigma)
        beta, sigma = 1 / sigma**2, None
    if together(pred, target) and weight is None and not validate and (beta == 0 or 1e-12 < beta < 1e12):
        loss = functional.smooth_l1_loss(pred, target, reduction=reduction, beta=beta)
        if sound(loss):
            return loss
    if full(pred, target) and pred.shape == target.shape and weight is None and not validate and 1e-12 < beta < 1e12:
        return reduce_loss(XP, HUBER.apply(pred, target, beta), reduction, NAMES[pred.dtype])
    return formulas.smooth_l1_loss(XP, pred, target, beta, sigma, weight, reduction, validate)


@documented(formulas.relative_error_loss)
def relative_error_loss(
    pred: Tensor,
    target: Tensor,
    denominator: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    if together(pred, target) and denominator is None and weight is None and not validate:
        loss = functional.l1_loss(pred, target, reduction=reduction)
        if sound(loss):
            return loss
    return formulas.relative_error_loss(XP, pred, target, denominator, weight, reduction, validate)


@documented(formulas.gaussian_nll_loss)
def gaussian_nll_loss(
    mean: Tensor,
    target: Tensor,
    log_var: Tensor,
    full: bool = False,
    weight: Tensor | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    if together(mean, target, log_var) and not (full or validate) and weight is None and least(log_var) > -60:
        difference = mean - target
        loss = torch.addcmul(log_var, difference * difference, torch.exp(-log_var))
        loss = reduced(loss, reduction) * 0.5
        if sound(loss):
            return loss
    return formulas.gaussian_nll_loss(XP, mean, target, log_var, full, weight, reduction, validate)


@documented(formulas.kl_divergence_normal)
def kl_divergence_normal(
    mean: Tensor,
    log_var: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    numbers.reduction(reduction)
    if together(mean, log_var) and not validate and weight is None and reduction != "none" and most(log_var) < 80:
        total = (torch.exp(log_var) + mean * mean - log_var).sum() - mean.numel()
        # The plain form cancels near the prior: there the formula has to be computed with more care.
        if sound(total) and known(total.item) > 0.25 * mean.numel():
            return total * (0.5 / mean.numel()) if reduction == "mean" else total * 0.5
    if (
        weight is None
        and not validate
        and reduction != "none"
        and mean.shape == log_var.shape
        and compiled(mean, log_var)
    ):
        return DIVERGENCE.apply(mean, log_var, reduction)
    return formulas.kl_divergence_normal(XP, mean, log_var, weight, reduction, validate)
