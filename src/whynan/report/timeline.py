"""Several incidents of a run along its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 720, 66
_LEFT, _RIGHT, _LINE = 16, 16, 46
_APART = 24.0
"""A dot's size and a little: numbers must not lie on each other."""
_MOST = int((WIDTH - _LEFT - _RIGHT) / _APART)


@dataclass(frozen=True)
class Point:
    """One incident: where on the line it lies, where its dot has room, and its number, which leads to it."""

    x: float
    dot: float
    number: int
    title: str


@dataclass(frozen=True)
class Timeline:
    points: tuple[Point, ...]
    end: str
    line: float = _LINE


def draw(incidents: Sequence[Mapping[str, Any]], headlines: Sequence[str], n_steps: int) -> Timeline | None:
    """Return the line; None for fewer than two incidents. Of very many the first ones have a place."""
    if len(incidents) < 2:
        return None
    last = max(n_steps, *(int(incident["step"]) for incident in incidents), 1)
    places = [
        round(_LEFT + int(incident["step"]) / last * (WIDTH - _LEFT - _RIGHT), 1) for incident in incidents[:_MOST]
    ]
    points = tuple(
        Point(x, dot, number, headline)
        for number, (x, dot, headline) in enumerate(zip(places, _spread(places), headlines), 1)
    )
    return Timeline(points, f"step {last}")


def _spread(places: Sequence[float]) -> list[float]:
    """Move dots to the right until each has room, then those that stand beyond the end to the left."""
    dots: list[float] = []
    for x in places:
        dots.append(max(x, dots[-1] + _APART) if dots else x)
    room = float(WIDTH - _RIGHT)
    for k in range(len(dots) - 1, -1, -1):
        dots[k] = round(min(dots[k], room), 1)
        room = dots[k] - _APART
    return dots
