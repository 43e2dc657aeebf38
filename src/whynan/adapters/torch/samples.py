"""Find the sample of the batch that makes the step fail: by the elements' positions, then by replacing samples.

A sample is guilty if the step is finite once it is replaced by another sample of the same batch. Positions only say
which one to try first. Where no single one is guilty, that is the answer.
"""

import itertools
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from whynan.adapters.torch import handmade, sources
from whynan.adapters.torch.attempt import Attempt, Outcome
from whynan.adapters.torch.data.batch import batch_size, replace_sample
from whynan.adapters.torch.handmade import drawn_rows
from whynan.records import Sample

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan

_MAX_ATTEMPTS = 24


@dataclass(frozen=True)
class BatchItem:
    """The batch as the iteration got it: names that the loop binds, or items drawn by `next`."""

    names: dict[str, Any]
    drawn: list[Any]
    size: int | None

    def with_replaced(self, positions: list[int], donors: list[int]) -> tuple[dict[str, Any], list[Any]]:
        names, drawn = dict(self.names), list(self.drawn)
        for position, donor in zip(positions, donors):
            if names:
                names = replace_sample(names, position, donor, self.size)
            if drawn:
                drawn = [replace_sample(item, position, donor, self.size) for item in drawn]
        return names, drawn


class SampleSearch:
    """Runs the attempts that find the guilty sample; `samples` and `note` hold the answer."""

    def __init__(self, plan: "Plan", traced: "Outcome") -> None:
        self.plan = plan
        self.traced = traced
        self.batch = batch_of(plan)
        self.samples: tuple[Sample, ...] = ()
        self.position: int | None = None
        self.size: int | None = self.batch.size
        self.note: str | None = None
        self.n_tried = 0

    def attempts(self) -> "Generator[Attempt, None, None]":
        """Yield attempts until the guilty sample is known or none is."""
        direct = sources.samples_by_row(self.plan, self.traced)
        if direct:
            self.samples = direct
            self.position = direct[0].position
            self.size = sources.size_of_group(self.plan, self.traced)
            return
        size = self.batch.size
        if size == 1:
            self._settle(0, "the only sample of the batch")
            return
        if size is None:
            yield from self._gathered()
            if not self.samples and self.note is None:
                self._settle_by_elements()
            return
        if not self._may_be_a_sample():
            return
        if sources.is_ragged(size):
            self._settle_by_elements()
            return
        for candidate in sources.candidate_positions(self.traced, size, sources.batch_items(self.plan))[:3]:
            yield self._without([candidate], size)
            if self._is_mended():
                yield from self._accuse(candidate, size)
                return
        yield from self._bisect(size)

    def find_by_elements(self) -> None:
        """Say what can be said without running the step again."""
        self.samples = sources.samples_by_row(self.plan, self.traced)
        if not self.samples:
            self._settle_by_elements()

    def _settle_by_elements(self) -> None:
        """The batch can't be taken apart, or the body makes it by itself: where the elements lie is all there is."""
        drawn = drawn_rows(self.plan, self.traced)
        if drawn is None or not self._may_be_a_sample():
            return
        size = len(drawn.rows)
        if size == 1:
            self.samples = (drawn.sample(0, "the only sample of this iteration"),)
            return
        positions = sources.candidate_positions(self.traced, size, sources.batch_items(self.plan))
        if len(positions) == 1 and sources.is_one_of_many(self.traced) and not sources.is_repeated(self.traced):
            self.samples = (drawn.sample(positions[0], "the non-finite elements lie in its row; not tested"),)
            self.position = positions[0]

    def _gathered(self) -> "Generator[Attempt, None, None]":
        """The script makes its batches itself: overwrite rows of the tables that it takes them from."""
        if not self._may_be_a_sample():
            return
        drawn = drawn_rows(self.plan, self.traced)
        for batch in itertools.islice(handmade.gathered_batches(self.plan, self.traced), 3):
            if batch.size == 1:
                if drawn is not None and len(drawn.rows) > 1:
                    continue  # a data set's own look at its table for one of several samples
                self.size, self.position = 1, 0
                self.samples = (Sample(0, batch.rows[0], None, "the only sample of the batch"),)
                return
            likely = sources.candidate_positions(self.traced, batch.size)[:3]
            for candidate in [*likely, *(k for k in range(batch.size) if k not in likely)]:
                if self.n_tried >= _MAX_ATTEMPTS or self.plan.is_out_of_time():
                    break
                if len(set(batch.rows)) < 2:
                    break
                self.n_tried += 1
                yield Attempt(traced=False, mode=batch.without([candidate]))
                if self._is_mended():
                    self.size, self.position = batch.size, candidate
                    why = "with another row in its place the step is finite"
                    self.samples = (Sample(candidate, batch.rows[candidate], None, why),)
                    return
        for places in handmade.list_batches(self.plan, self.traced):
            likely = sources.candidate_positions(self.traced, len(places))
            if len(likely) == 1:
                self.size, self.position = len(places), likely[0]
                self.samples = (Sample(likely[0], places[likely[0]], None, "the non-finite values lie in its row"),)
                return
        if self.n_tried:
            self.note = f"no single sample is guilty ({self.n_tried} replacements tried)"

    def _may_be_a_sample(self) -> bool:
        leaf = self.traced.slice.leaf if self.traced.slice is not None else None
        origin = self.traced.slice.origin if self.traced.slice is not None else None
        if leaf is not None and sources.role_of(leaf, self.plan, self.traced)[0] in ("parameter", "buffer"):
            return False
        return origin is None or origin.phase != "optimizer"

    def _is_mended(self) -> bool:
        """Whether the last attempt was finite and not only left by an exception before it could be anything else."""
        outcome = self.plan.outcome
        return outcome.is_finite and (self.plan.pending.error is not None or not isinstance(outcome.error, Exception))

    def _without(self, positions: list[int], size: int, donor: int | None = None) -> "Attempt":
        self.n_tried += 1
        healthy = [k for k in range(size) if k not in positions] if donor is None else [donor]
        donors = [healthy[i % len(healthy)] for i in range(len(positions))]
        names, drawn = self.batch.with_replaced(positions, donors)
        return Attempt(traced=False, changed=names, redraws=drawn or None)

    def _bisect(self, size: int) -> "Generator[Attempt, None, None]":
        """Invariant: with the samples of `suspects` replaced, and nothing else, the step is finite, or all are."""
        suspects = list(range(size))
        while len(suspects) > 1 and self.n_tried < _MAX_ATTEMPTS and not self.plan.is_out_of_time():
            half = len(suspects) // 2
            for part in (suspects[:half], suspects[half:]):
                yield self._without(part, size)
                if self._is_mended():
                    suspects = part
                    break
            else:
                break
        if len(suspects) == 1:
            yield from self._accuse(suspects[0], size)
        elif len(suspects) < size:
            self.note = (
                f"no single sample is guilty: replacing samples {suspects} of the batch together makes it finite"
            )
        else:
            self.note = f"no single sample is guilty ({self.n_tried} replacements tried)"

    def _accuse(self, position: int, size: int) -> "Generator[Attempt, None, None]":
        """Settle on a sample, unless the step is finite too with the same donor in the place of an innocent one.

        A batch may fail as a whole, for want of a pair of one class, say: then any two equal samples mend it.
        """
        if size > 2:
            donor = 0 if position else 1
            innocent = next(k for k in range(size) if k not in (position, donor))
            yield self._without([innocent], size, donor)
            if self._is_mended():
                self.note = "no single sample is guilty: with one of several others replaced the step is finite too"
                return
        self._settle(position, "replaced by another sample of the batch, the step is finite")

    def _settle(self, position: int, why: str) -> None:
        self.position = position
        sample = sources.sample_at(self.plan, position, why)
        if sample.index is None and self.batch.size is not None:
            parts = [*self.batch.names.values(), *self.batch.drawn]
            parts += [field for part in parts if isinstance(part, (list, tuple)) for field in part]
            found = (
                handmade.index_of_sample(self.plan, self.traced, position, self.batch.size, part) for part in parts
            )
            sample = replace(sample, index=next((index for index in found if index is not None), None))
        self.samples = (sample,)


def batch_of(plan: "Plan") -> BatchItem:
    target = plan.target
    values = sources.values_at_start(plan)
    names = {name: values[name] for name in target.site.targets if name in values and _holds_data(values[name])}
    drawn = [item for item in target.drawn if _holds_data(item)]
    size = sources.size_of(names)
    if size is None and drawn:
        size = batch_size(drawn[0] if len(drawn) == 1 else drawn)
    return BatchItem(names, list(target.drawn) if drawn else [], size)


def _holds_data(value: Any) -> bool:
    return not isinstance(value, (int, float, str, bool, type(None)))
