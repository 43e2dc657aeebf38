"""Ranges of numbers, and the dtypes they are of."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

LARGEST = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": 3.4028234663852886e38,
    "float64": 1.7976931348623157e308,
    "complex64": 3.4028234663852886e38,
    "complex128": 1.7976931348623157e308,
}
SMALLEST = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "float32": 2.0**-149,
    "float64": 2.0**-1074,
    "complex64": 2.0**-149,
    "complex128": 2.0**-1074,
}
"""The smallest positive number, a subnormal one."""


def is_float(dtype: str) -> bool:
    return dtype in LARGEST


def is_half(dtype: str) -> bool:
    """Whether sums and products of ordinary size leave the type: float16, not bfloat16."""
    return dtype == "float16"


def largest(dtype: str) -> float:
    """Return the largest finite number; of types that are not floating point, infinity."""
    return LARGEST.get(dtype, math.inf)


def exp_limit(dtype: str) -> float:
    """Return the largest x whose exp is finite."""
    return math.log(LARGEST[dtype]) if dtype in LARGEST else math.inf


def number(x: float) -> str:
    """Return a number in at most four digits."""
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    if x == int(x) and abs(x) < 1e5:
        return str(int(x))
    return f"{x:.4g}"


def plural(n: int, what: str, many: str | None = None) -> str:
    return f"{n} {what if n == 1 else many or what + 's'}"


INF = math.inf


@dataclass(frozen=True)
class Range:
    """lo <= x <= hi for every finite element x.

    `soft`: an end is an estimate of what training may reach and no bound: a saturating function is taken to saturate.
    `nonzero`: no element is 0. `masked`: elements may be -inf on purpose. `empty`: there may be no element at all.
    `varies`: depends on data or parameters; else each run gives the same. `steep`: grows like an exponential.
    `grad`: a derivative flows back through it.
    """

    lo: float = -INF
    hi: float = INF
    nonzero: bool = False
    integer: bool = False
    soft: bool = False
    masked: bool = False
    empty: bool = False
    varies: bool = True
    steep: bool = False
    grad: bool = False

    @property
    def may_be_zero(self) -> bool:
        return not self.nonzero and self.lo <= 0 <= self.hi

    @property
    def magnitude(self) -> float:
        return max(abs(self.lo), abs(self.hi))

    def within(self, lo: float, hi: float) -> "Range":
        """Return the part of the range between two bounds; outside of it a range of one point at the nearer bound."""
        a, b = max(self.lo, lo), min(self.hi, hi)
        if a > b:
            a = b = lo if self.hi < lo else hi
        return replace(self, lo=a, hi=b, nonzero=self.nonzero or a > 0 or b < 0)

    def holds(self, x: float) -> bool:
        """Whether a concrete value may be an element; infinities and NaN are not the range's business."""
        return not math.isfinite(x) or (self.lo <= x <= self.hi and not (x == 0 and self.nonzero))


def of(lo: float, hi: float, *operands: Range, **about: bool) -> Range:
    """Return a range between two bounds that inherits from operands what every element-wise function hands on."""
    lo, hi = (-INF if math.isnan(lo) else lo), (INF if math.isnan(hi) else hi)
    told = {
        "soft": any(r.soft for r in operands),
        "empty": any(r.empty for r in operands),
        "varies": any(r.varies for r in operands),
        "steep": any(r.steep for r in operands),
        "grad": any(r.grad for r in operands),
        "nonzero": lo > 0 or hi < 0,
    } | about
    return Range(lo, hi, **told)


def join(*ranges: Range) -> Range:
    return of(
        min(r.lo for r in ranges),
        max(r.hi for r in ranges),
        *ranges,
        nonzero=all(r.nonzero for r in ranges),
        integer=all(r.integer for r in ranges),
        masked=any(r.masked for r in ranges),
        empty=all(r.empty for r in ranges),
    )


def times(a: float, b: float) -> float:
    """Return a product in which 0 stands for exactly nothing: 0 * inf is 0, as for the end of an interval."""
    return 0.0 if a == 0 or b == 0 else a * b


def monotone(function: Callable[[float], float], x: Range, **about: bool) -> Range:
    """Return the range of an increasing function over x, a hair wider for the rounding of the real one."""
    return of(widen_down(safe(function, x.lo)), widen_up(safe(function, x.hi)), x, **about)


def safe(function: Callable[[float], float], x: float) -> float:
    """Apply a function; beyond what Python's floats hold the answer is infinity."""
    try:
        return function(x)
    except OverflowError:
        return INF
    except ValueError:
        return math.nan


def widen_down(x: float, share: float = 1e-6) -> float:
    return x - abs(x) * share if math.isfinite(x) else x


def widen_up(x: float, share: float = 1e-6) -> float:
    return x + abs(x) * share if math.isfinite(x) else x
