"""Which rows of the batch are guilty: the step is run again with rows replaced by others.

Invariant of the search: with the rows in `suspects` the step fails, and each half of them has been tried. The batch
keeps its size, so that means, statistics and compiled shapes stay what they were.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from whynan.adapters.common.arrays import all_finite
from whynan.adapters.common.batch import Part, find_index
from whynan.adapters.common.graph import Graph
from whynan.launch.host import Unwind
from whynan.records import Sample

Rows = list[int]
_MOST = 3
"""Guilty samples of one batch; where there are more, it is not the samples."""


_SECONDS = 20.0


def find_samples(
    parts: Sequence[Part],
    size: int,
    symptom: tuple[Graph, Sequence[int]],
    fails: Callable[[Rows], bool],
    sources: Callable[[], Sequence[Any]],
    deadline: float,
) -> tuple[tuple[Sample, ...], str | None]:
    """Return the guilty samples of a batch, by their index in one of `sources` where that is found, and a note.

    `symptom` is the traced step and its values that are not finite; `fails` as for `find_guilty`.
    """
    graph, starts = symptom
    guesses = [i for part in parts if part.array.ndim and len(part.array) == size and not all_finite(part.array)
               for i in range(size) if not all_finite(part.array[i : i + 1])]  # fmt: skip
    found = graph.slice(starts)
    if found is not None and found.origin is not None:
        guesses += [element[0] for element in found.origin.elements if element]
    try:
        rows, note = find_guilty(size, fails, guesses, min(deadline, time.monotonic() + _SECONDS))
    except Unwind:
        raise
    except Exception as error:
        return (), f"looking for the sample failed: {type(error).__name__}: {error}"
    held = sources() if rows else ()
    return tuple(Sample(row, find_index(parts, row, held), None, why_guilty(rows)) for row in rows), note


def find_guilty(
    size: int, fails: Callable[[Rows], bool], guesses: Sequence[int] = (), deadline: float = float("inf")
) -> tuple[Rows, str | None]:
    """Return the guilty positions, and a note where there is something to say; none where no single row is guilty.

    `fails(rows)` runs the step with row rows[i] of the batch in place i. `guesses` are positions that the origin's
    elements point to.
    """
    if size < 2:
        return [], None
    for guess in list(dict.fromkeys(g for g in guesses if 0 <= g < size))[:3]:
        others = [i for i in range(size) if i != guess]
        if fails([guess] * size) and not fails(_filled(others, size)):
            return [guess], None
    probes = sorted({size * k // 4 for k in range(4)})
    if all(fails([probe] * size) for probe in probes):
        return [], f"samples fail whichever is taken ({len(probes)} were tried alone): no single sample is guilty"
    suspects = list(range(size))
    while len(suspects) > 1 and time.monotonic() < deadline:
        half = suspects[: len(suspects) // 2]
        rest = suspects[len(suspects) // 2 :]
        if fails(_filled(half, size)):
            suspects = half
        elif fails(_filled(rest, size)):
            suspects = rest
        else:
            return [], "the step fails with the whole batch only: no single sample is guilty"
    if len(suspects) != 1:
        return [], "the search for the sample ran out of time"
    return _with_others(suspects[0], size, fails, deadline)


def why_guilty(rows: Rows) -> str:
    return f"with {'this row' if len(rows) == 1 else 'these rows'} replaced by others the step is finite"


def _with_others(first: int, size: int, fails: Callable[[Rows], bool], deadline: float) -> tuple[Rows, str | None]:
    """Return the guilty row and the few others that fail by themselves; none where they are many."""
    guilty = [first]
    while fails(_filled(rest := [i for i in range(size) if i not in guilty], size)):
        if len(guilty) == _MOST or len(rest) < 2 or time.monotonic() > deadline:
            return [], "many samples of the batch fail, each by itself: no single sample is guilty"
        suspects = rest
        while len(suspects) > 1:
            half = suspects[: len(suspects) // 2]
            suspects = half if fails(_filled(half, size)) else suspects[len(half) :]
        if not fails(_filled(suspects, size)):
            return guilty, "the other samples of the batch fail together too"
        guilty += suspects
    guilty.sort()
    return guilty, f"{len(guilty)} samples of the batch fail, each by itself" if len(guilty) > 1 else None


def _filled(rows: Rows, size: int) -> Rows:
    """Return `size` rows, those given repeated."""
    return [rows[i % len(rows)] for i in range(size)]
