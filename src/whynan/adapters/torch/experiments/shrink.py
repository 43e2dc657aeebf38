"""The smallest batch that still fails: the guilty sample alone, or what halving leaves."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from whynan.adapters.torch.data.batch import keep_samples
from whynan.adapters.torch.samples import SampleSearch

if TYPE_CHECKING:
    from whynan.adapters.torch.attempt import Attempt
    from whynan.adapters.torch.plan import Plan

_MAX_ATTEMPTS = 12


class Shrinking:
    """Runs the step on ever fewer samples of its batch. `positions` are those of the smallest batch that failed."""

    def __init__(self, plan: "Plan", search: SampleSearch) -> None:
        self.plan = plan
        self.search = search
        self.positions: list[int] | None = None
        self.n_tried = 0

    def attempts(self) -> "Generator[Attempt, None, None]":
        """Yield attempts; a part that fails is halved again, until neither half does."""
        size = self.search.batch.size
        if size is None or size < 2 or not (self.search.batch.names or self.search.batch.drawn):
            return
        guilty = [s.position for s in self.search.samples if s.position is not None and s.position < size]
        current = list(range(size))
        if guilty and (yield from self._fails(guilty)):
            current = guilty
        while len(current) > 1 and self.n_tried < _MAX_ATTEMPTS and not self.plan.is_out_of_time():
            half = len(current) // 2
            for part in (current[:half], current[half:]):
                if (yield from self._fails(part)):
                    current = part
                    break
            else:
                break
        if len(current) < size:
            self.positions = current

    def _fails(self, positions: list[int]) -> "Generator[Attempt, None, bool]":
        """Run the step on these samples alone; return whether it fails as the whole batch did."""
        from whynan.adapters.torch.attempt import Attempt

        batch, size = self.search.batch, self.search.batch.size
        try:
            names = {name: keep_samples(value, positions, size) for name, value in batch.names.items()}
            drawn: list[Any] = [keep_samples(value, positions, size) for value in batch.drawn]
        except Exception:
            return False
        self.n_tried += 1
        yield Attempt(traced=False, changed=names, redraws=drawn or None)
        outcome = self.plan.outcome
        pending = self.plan.pending
        return outcome.event is not None and outcome.error is None and outcome.event.what == pending.what

    def note(self) -> str | None:
        """Return the smallest failing batch in words."""
        if self.positions is None:
            return None
        known = {s.position: s.index for s in self.search.samples}
        if len(self.positions) == 1:
            index = known.get(self.positions[0])
            name = f"sample {index}" if index is not None else f"the sample at position {self.positions[0]}"
            return f"the smallest batch that fails is {name} alone"
        return f"the smallest batch found that fails holds the samples at positions {self.positions}"
