"""Connectionist temporal classification."""

import torch
from torch import Tensor
from torch.nn import functional

from whynan.formulas import checks
from whynan.formulas.losses import sequence as formulas
from whynan.torch.backend import XP
from whynan.torch.fast import documented, least, most, sound, whole


@documented(formulas.ctc_loss)
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = True,
    validate: bool = False,
) -> Tensor:
    checks.reduction(reduction)
    targets, input_lengths, target_lengths = (torch.as_tensor(x) for x in (targets, input_lengths, target_lengths))
    if targets.dim() == 1:
        targets = padded(targets, target_lengths)
    # The kernel of PyTorch takes its logarithms to be normalized and finite, and then gives 0 for impossible targets.
    plain = whole(log_probs) and log_probs.dim() == 3 and zero_infinity and not validate and targets.numel() > 0
    if plain and least(log_probs) > -1e5 and most(log_probs) < 1e-3:
        loss = functional.ctc_loss(
            log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity=True
        )
        if sound(loss):
            return loss
    return formulas.ctc_loss(
        XP, log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity, validate
    )


def padded(targets: Tensor, lengths: Tensor) -> Tensor:
    """Return targets that are joined to one vector as (N, S), padded with 0."""
    given = [int(length) for length in lengths.flatten()]
    if sum(given) != len(targets):
        raise ValueError(f"targets has {len(targets)} elements, and target_lengths add up to {sum(given)}")
    rows = targets.new_zeros((len(given), max(given, default=0)))
    at = 0
    for row, length in zip(rows, given, strict=True):
        row[:length] = targets[at : at + length]
        at += length
    return rows
