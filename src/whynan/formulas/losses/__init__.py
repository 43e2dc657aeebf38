"""Losses whose value and gradient are finite for all finite arguments; all functions with slopes of their own."""

from whynan.formulas.elementwise import ACOS, ANGLE, ASIN, EXP, INVERSE, POWER, QUOTIENT, ROOT
from whynan.formulas.losses.classification import ENTROPY, PICKED
from whynan.formulas.losses.regression import DIVERGENCE

GUARDED = (
    ANGLE, QUOTIENT, INVERSE, POWER, ENTROPY, PICKED, DIVERGENCE,
    *EXP.values(), *ROOT.values(), *ACOS.values(), *ASIN.values(),
)  # fmt: skip
