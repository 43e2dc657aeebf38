"""How often a check may run so that watching stays within its share of the run's time."""

import time


class Budget:
    """Runs a costly check as often as `share` of the elapsed time allows, and always in the first few steps.

    The check's own duration is measured each time; between two runs at least duration / share seconds pass.
    """

    def __init__(self, share: float, n_first: int = 3, free_s: float = 0.0) -> None:
        self.share = share
        self.n_first = n_first
        self.free_s = free_s
        self.n_runs = 0
        self._next = 0.0
        self._began = 0.0

    def is_due(self) -> bool:
        return self.n_runs < self.n_first or time.perf_counter() >= self._next

    def begin(self, spent: float = 0.0) -> None:
        """Begin a check, or go on with one that has taken `spent` seconds before a pause."""
        self._began = time.perf_counter() - spent

    def spent(self) -> float:
        """Return the seconds since it began."""
        return time.perf_counter() - self._began

    def end(self) -> None:
        now = time.perf_counter()
        took = now - self._began
        self.n_runs += 1
        # The cheapest checks are not worth thinning: they would only be missed on small models.
        self._next = 0.0 if took <= self.free_s else now + took / self.share
