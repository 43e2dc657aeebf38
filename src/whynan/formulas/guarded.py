"""All functions with slopes of their own; each framework makes its own functions of them when it is imported."""

from whynan.formulas.elementwise import ACOS, ANGLE, ASIN, EXP, INVERSE, POWER, QUOTIENT, ROOT
from whynan.formulas.losses.classification import ENTROPY, PICKED
from whynan.formulas.losses.regression import DIVERGENCE

GUARDED = (
    ANGLE, QUOTIENT, INVERSE, POWER, ENTROPY, PICKED, DIVERGENCE,
    *EXP.values(), *ROOT.values(), *ACOS.values(), *ASIN.values(),
)  # fmt: skip
