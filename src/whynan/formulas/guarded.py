"""All functions with slopes of their own; each framework makes its own functions of them when it is imported."""

from whynan.formulas.elementwise import ACOS, ANGLE, ASIN, INVERSE, POWER, QUOTIENT, ROOT

GUARDED = (QUOTIENT, INVERSE, POWER, ANGLE, *ROOT.values(), *ACOS.values(), *ASIN.values())
