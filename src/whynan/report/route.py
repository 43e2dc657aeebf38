"""The path from the origin to the symptom as a picture: boxes from top to bottom, joined by arrows."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 430
_BOX, _GAP = 46, 20
_MOST = 14
_ENDS = 6
_LETTERS = 50


@dataclass(frozen=True)
class Stop:
    """One operation; `kind` is "origin", "symptom", "between" or "left-out", `full` the whole text for a pointer."""

    y: float
    kind: str
    phase: str
    title: str
    value: str
    place: str
    full: str


@dataclass(frozen=True)
class Route:
    """The picture; `summary` is the same in words."""

    stops: tuple[Stop, ...]
    height: float
    summary: str
    box: float = _BOX
    gap: float = _GAP


@dataclass(frozen=True)
class Passed:
    """What is known of one operation on the path."""

    op: str
    phase: str
    place: str
    function: str | None
    module: str | None
    value: str


def draw(steps: Sequence[Passed], symptom: str, what: str) -> Route | None:
    """Return the picture of a path that ends in `symptom`, a `what` (loss, gradient, ...); None where it is empty."""
    if not steps:
        return None
    shown: list[Passed | int] = list(steps)
    if len(steps) > _MOST:
        shown = [*steps[:_ENDS], len(steps) - 2 * _ENDS, *steps[-_ENDS:]]
    stops = []
    for number, step in enumerate(shown):
        y = 2 + number * (_BOX + _GAP)
        if isinstance(step, int):
            stops.append(Stop(y, "left-out", "", f"{step} more operations", "", "all listed below", f"{step} more"))
        else:
            stops.append(_stop(y, "origin" if number == 0 else "between", step))
    y = 2 + len(shown) * (_BOX + _GAP)
    stops.append(Stop(y, "symptom", "", _cut(symptom), "", f"the {what} that you see", symptom))
    names = " to ".join(f"{step.op} at {step.place}" for step in (steps[0], steps[-1]))
    count = f"{len(steps)} operations" if len(steps) > 1 else "one operation"
    return Route(tuple(stops), y + _BOX + 2, f"{count}, from {names}, to {symptom}")


def _stop(y: float, kind: str, step: Passed) -> Stop:
    where = step.place + (f" in {step.function}" if step.function else "")
    full = f"{step.op} {step.value}, {where}" + (f", module {step.module}" if step.module else "")
    return Stop(y, kind, step.phase, _cut(step.op, 34), step.value, _cut_left(where), full)


def _cut_left(text: str, most: int = _LETTERS) -> str:
    """Return a place that fits: its end, the line and the function, says more than the folders."""
    return text if len(text) <= most else "…" + text[1 - most :]


def _cut(text: str, most: int = _LETTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
