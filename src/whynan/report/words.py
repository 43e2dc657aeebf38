"""How values are said in a report: numbers, tensors, places, and text that came from elsewhere."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from whynan.records.tensor import short_dtype

_NAMES = {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}


def clean(text: object) -> str:
    """Return text on one line in which nothing acts: control, direction and lone surrogate characters are spelled out.

    File names, code and messages come from the user's world; a terminal must not obey an escape sequence in them.
    """
    return "".join(_visible(char) for char in str(text).expandtabs(4))


def clean_lines(text: object) -> tuple[str, ...]:
    """Return the lines of a text, each one clean."""
    return tuple(clean(line) for line in str(text).split("\n"))


def _visible(char: str) -> str:
    if char in "\n\r":
        return " "
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return char.encode("unicode_escape", "surrogatepass").decode("ascii")
    return char


def number(value: object) -> str:
    """Return a number as a reader wants it: NaN, Inf, 0.25, 1.0000001, 3.2e+08; anything else as clean text."""
    if is_nonfinite(value):
        return _NAMES[str(value)]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return clean(value)
    # Nine digits tell every float32 apart: 1.0000001 must not become 1.
    text = f"{value:.9g}"
    return text if len(text) <= 12 else f"{value:.6g}"


def as_number(value: object) -> object:
    """Return the finite number that a text spells out, anything else as it is."""
    if not isinstance(value, str) or is_nonfinite(value):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def short_number(value: float) -> str:
    """Return a number in four digits, for an axis or an overview."""
    return number(value) if value in (float("inf"), float("-inf")) or value != value else f"{value:.4g}"


def is_nonfinite(value: object) -> bool:
    """Return whether a value of a report stands for NaN, +Inf or -Inf."""
    return isinstance(value, str) and value in _NAMES


def plural(n: int, noun: str) -> str:
    """Return "1 step", "2 steps", "0 batches"."""
    if n == 1:
        return f"1 {noun}"
    return f"{n} {noun}es" if noun.endswith(("s", "ch", "x")) else f"{n} {noun}s"


def place(item: Mapping[str, Any]) -> str | None:
    """Return "train.py:58", as editors and terminals recognise it; None where the file is not known."""
    if not item.get("file"):
        return None
    line = item.get("line")
    return clean(item["file"]) + (f":{line}" if line is not None else "")


def tensor(summary: Mapping[str, Any]) -> str:
    """Return "f32[64, 4]"."""
    return f"{short_dtype(clean(summary['dtype']))}[{', '.join(map(str, summary['shape']))}]"


def n_elements(summary: Mapping[str, Any]) -> int:
    """Return how many elements a tensor has."""
    n = 1
    for size in summary["shape"]:
        n *= size
    return n


def nonfinite_count(summary: Mapping[str, Any]) -> str:
    """Return "1 nan of 32", "2 nan, 3 inf of 64", "all 32 finite"."""
    kinds = (("nan", "nan"), ("posinf", "inf"), ("neginf", "-inf"))
    counts = [f"{summary[key]} {name}" for key, name in kinds if summary.get(key)]
    if not counts and summary.get("nonfinite"):
        counts = [f"{summary['nonfinite']} non-finite"]
    total = n_elements(summary)
    return f"{', '.join(counts)} of {total}" if counts else f"all {total} finite"


def value_range(summary: Mapping[str, Any]) -> str:
    """Return the measured facts of a tensor: "f32[8, 2] from 0 to 0.9, 3 zeros"."""
    facts = [tensor(summary)]
    if summary.get("min") is not None and summary.get("max") is not None:
        facts[0] += f" from {number(summary['min'])} to {number(summary['max'])}"
    if summary.get("zeros"):
        facts.append(plural(summary["zeros"], "zero"))
    if summary.get("nonfinite"):
        facts.append(nonfinite_count(summary))
    if summary.get("role") not in (None, "computed"):
        facts.append(" ".join(clean(summary[key]) for key in ("role", "name") if summary.get(key)))
    return ", ".join(facts)
