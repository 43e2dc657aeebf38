"""What a floating-point type can hold, and numbers as people read them."""

import math

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
