"""Growth while it happens: a loss that rises by orders of magnitude and stays there, step after step."""

import math
import statistics

_N_EARLY = 20
_FACTOR = 1e6
_N_IN_A_ROW = 20


class GrowthWatch:
    """Takes one loss a step. `since` is the step at which growth was certain; None while there is none.

    A spike comes down again: what counts is `_N_IN_A_ROW` losses in a row, all `_FACTOR` times the early median, the
    last larger than the first. A loss that is next to 0 in the beginning has to become large as a number.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.facts: tuple[float, float] = (0.0, 0.0)
        self._early: list[float] = []
        self._base = 0.0
        self._n_risen = 0
        self._first = 0.0

    def add(self, step: int, loss: float) -> bool:
        """Take the loss of a step; return True once, when growth has become certain."""
        size = abs(loss)
        if not math.isfinite(size) or self.since is not None:
            return False
        if len(self._early) < _N_EARLY:
            self._early.append(size)
            self._base = max(statistics.median(self._early), 1e-3)
            return False
        if size < _FACTOR * self._base:
            self._n_risen = 0
            return False
        self._first = self._first if self._n_risen else size
        self._n_risen += 1
        if self._n_risen < _N_IN_A_ROW or size <= 10 * self._first:
            return False
        self.since = step
        self.facts = (self._base, size)
        return True
