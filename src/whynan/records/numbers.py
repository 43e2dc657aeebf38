"""Numbers that JSON cannot hold, written as the strings "nan", "inf" and "-inf"."""

import math
from typing import Any


def to_jsonable(value: Any) -> Any:
    """Return `value` with every non-finite float replaced by its name, through lists, tuples and dicts."""
    if isinstance(value, float) and not math.isfinite(value):
        return name_of(value)
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    return value


def name_of(value: float) -> str:
    """Return "nan", "inf" or "-inf" for a non-finite value, its shortest decimal form for a finite one."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(value)


def from_jsonable(value: Any) -> Any:
    """Return the float that a string "nan", "inf" or "-inf" stands for, anything else as it is."""
    return float(value) if value in ("nan", "inf", "-inf") else value
