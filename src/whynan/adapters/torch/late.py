"""Numbers that a device works out while the host runs ahead of it: asked for at once, told when they have come.

To read a number of a GPU is to wait for all that was queued before it. Here it is copied to the host behind that work
instead, and looked at later. What is waited for is only what stands in front of a backward pass that has been queued
since, so that the device is never left without work: the loss of a step, and all that was asked for in the step before.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from whynan.launch.host import tell
from whynan.watching import Budget


def works_ahead(tensor: Any) -> bool:
    """Whether the device of a tensor has a queue of its own, which a host can be told of."""
    return bool(tensor.is_cuda)


class Copied:
    """A device's numbers on their way into memory that the host may read. CUDA and ROCm."""

    def __init__(self, numbers: Any) -> None:
        self._values = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        self._values.copy_(numbers, non_blocking=True)
        self._done = torch.cuda.current_stream(numbers.device).record_event()

    def has_come(self) -> bool:
        """Whether they are there; does not wait."""
        return bool(self._done.query())

    def values(self) -> list[float]:
        self._done.synchronize()
        return [float(value) for value in self._values.reshape(-1).tolist()]


class Stopwatch:
    """What a device spends on what is queued between two points of its queue. CUDA and ROCm."""

    def __init__(self, tensor: Any) -> None:
        self._stream = torch.cuda.current_stream(tensor.device)
        self._began = self._stream.record_event(torch.cuda.Event(enable_timing=True))

    def stop(self) -> None:
        self._done = self._stream.record_event(torch.cuda.Event(enable_timing=True))

    def seconds(self) -> float | None:
        """Return the seconds between; None while the device is not that far."""
        return float(self._began.elapsed_time(self._done)) / 1e3 if self._done.query() else None


_MOST_CLOCKS = 16


@dataclass
class _Asked:
    numbers: Copied
    then: Callable[[list[float]], None]


class Late:
    """What has been asked for and has not come yet, in the order of asking."""

    def __init__(self) -> None:
        self.is_on = True
        """False where every rank of a job has to know of a step before it is over, and after a failure of this way."""
        self._asked: deque[_Asked] = deque()
        self._clocks: list[tuple[Stopwatch, Callable[[float], None]]] = []
        self._n_told = 0

    def takes(self, tensor: Any) -> bool:
        """Whether numbers made of this tensor are to be asked for, not read."""
        return self.is_on and works_ahead(tensor)

    @property
    def n_waiting(self) -> int:
        """How much has been asked for and not come."""
        return len(self._asked)

    @property
    def n_asked(self) -> int:
        """How often something was asked for: what `settle` waits for is given by it."""
        return self._n_told + len(self._asked)

    def ask(self, numbers: Any, then: Callable[[list[float]], None]) -> None:
        """Have `then` told the numbers of a small tensor when they have come."""
        self._asked.append(_Asked(Copied(numbers), then))

    def settle(self, first: int = 0) -> None:
        """Tell of what has come; wait for the `first` ones of all that was ever asked for."""
        while self._clocks and (seconds := self._clocks[0][0].seconds()) is not None:
            self._clocks.pop(0)[1](seconds)
        while self._asked and (self._n_told < first or self._asked[0].numbers.has_come()):
            asked = self._asked.popleft()
            self._n_told += 1
            asked.then(asked.numbers.values())

    def forget(self) -> None:
        """Leave the rest unread: the steps that it is of are undone or over."""
        self._n_told += len(self._asked)
        self._asked.clear()

    @contextmanager
    def timed(self, tensor: Any, then: Callable[[float], None]) -> Iterator[None]:
        """Have `then` told the seconds that a device works on what is queued meanwhile, where it works ahead."""
        clock = Stopwatch(tensor) if self.takes(tensor) and len(self._clocks) < _MOST_CLOCKS else None
        yield
        if clock is not None:
            clock.stop()
            self._clocks.append((clock, then))

    @contextmanager
    def charged(self, budget: Budget, tensor: Any) -> Iterator[None]:
        """Charge a budget with what a check costs, the device's time for it included."""
        budget.begin()
        with self.timed(tensor, budget.took):
            yield
        budget.end()

    def give_up(self, error: Exception) -> None:
        """Read at once from here on: the device does not do what this needs."""
        self.is_on = False
        self._clocks.clear()
        self.forget()
        tell("asking a device for numbers failed; they are waited for", error)
