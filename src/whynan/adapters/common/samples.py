"""Which rows of the batch are guilty: the step is run again with rows replaced by others.

Invariant of the search: with the rows in `suspects` the step fails, and each half of them has been tried. The batch
keeps its size, so that means, statistics and compiled shapes stay what they were.
"""

import time
from collections.abc import Callable, Sequence

Rows = list[int]


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
    if fails(_filled(list(range(size // 2)), size)) and fails(_filled(list(range(size // 2, size)), size)):
        return [], "both halves of the batch fail by themselves: no single sample is guilty"
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
    others = [i for i in range(size) if i != suspects[0]]
    if fails(_filled(others, size)):
        return suspects, "other samples of the batch fail too"
    return suspects, None


def _filled(rows: Rows, size: int) -> Rows:
    """Return `size` rows, those given repeated."""
    return [rows[i % len(rows)] for i in range(size)]
