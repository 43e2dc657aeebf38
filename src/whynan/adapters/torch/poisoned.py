"""Running statistics, and parameters updated by hand, that have become non-finite."""

from collections.abc import Sequence
from typing import Any

from whynan.adapters.torch.elements import TensorGroup, dense, first_nonfinite, kind_in, smallest
from whynan.adapters.torch.sites import Event
from whynan.adapters.torch.snapshot import KnownState

BY_HAND = "after an update by hand"


class Poisoned:
    """What no backward pass and no optimizer step tells of, looked at when an iteration ends."""

    def __init__(self, known: KnownState) -> None:
        self.known = known
        self.thorough = False
        """Read every gradient and parameter at every check, whatever that costs."""
        self._parameters = TensorGroup(share=0.003, free_s=5e-5)
        self._buffers = TensorGroup(share=0.001, free_s=1e-4)
        self._statistics: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self._innocent_buffers: set[int] = set()
        self._seen_buffers: set[int] = set()

    def poisoned_buffer(self, before: Sequence[tuple[Any, Any]] = ()) -> Event | None:
        """Return an event where a running statistic has become non-finite.

        `before` are buffers and their copies from the beginning of the iteration.
        """
        known = self.known.buffers()
        if self._statistics[0] is not known:
            self._statistics = (known, *self._changing([b for b in known if b.is_floating_point()], before))
        _, changing, small = self._statistics
        bad, _ = self._buffers.check(changing, small)
        if bad:
            broken = first_nonfinite(changing)
            names = self.known.parameter_names()
            name = next((names[id(b)] for b in broken if id(b) in names), "buffer")
            return Event("buffer", "forward", broken, name, kind_in(broken[0]), len(broken))
        return None

    def _changing(self, buffers: list[Any], before: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
        """Return the buffers that count, and the small ones among them."""
        new = [b for b in buffers if id(b) not in self._seen_buffers]
        if new:
            # A mask of -inf may be a buffer: only those that turn non-finite count. Modules may be met later, too.
            is_first = not self._seen_buffers
            clean = {id(b) for b, copy in before if not first_nonfinite([copy])}
            self._innocent_buffers |= {
                id(b) for b in first_nonfinite(new) if id(b) not in clean and (is_first or kind_in(b) == "-inf")
            }
            self._seen_buffers |= {id(b) for b in new}
        changing = dense(b for b in buffers if id(b) not in self._innocent_buffers)
        return changing, smallest(changing)

    def poisoned_parameter(self) -> Event | None:
        """Return an event where a parameter that is updated by hand has become non-finite."""
        parameters = dense(p for p in self.known.parameters() if p.grad is not None)
        bad, _ = self._parameters.check(parameters, thorough=self.thorough)
        if not bad:
            return None
        broken = first_nonfinite(parameters)
        names = self.known.parameter_names()
        name = next((names[id(p)] for p in broken if id(p) in names), "parameter")
        return Event("parameter", BY_HAND, broken, name, kind_in(broken[0]), len(broken))
