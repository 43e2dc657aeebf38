"""Several iterations to be run again.

A window belongs to one execution of one loop: a full snapshot, and what each iteration since then ran on, kept by
reference within a memory budget: what the loop's names were bound to, what `next` gave, the random states. Where a
whole epoch is an iteration of an outer loop, a window of that loop needs no batches: its body draws them again.
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch.snapshot import MEMORY_BUDGET, OptimizerCopy, RandomStates, Snapshot
from whynan.snapshot import _MISSING
from whynan.watching import Budget

if TYPE_CHECKING:
    from whynan.adapters.torch.sites import Loops, Pass

MOST_COPIED = MEMORY_BUDGET // 4
_ITEMS_BUDGET = 64 * 2**20
_MAX_ITEMS = 4096
_MIN_SPACING = 5
_N_RECENT = 2


@dataclass
class Item:
    """What one iteration ran on. `versions` tell whether the batch was changed in place since."""

    names: dict[str, Any]
    drawn: list[Any]
    random: RandomStates | None
    versions: tuple[int, ...]

    def is_unchanged(self) -> bool:
        return self.versions == _versions(self.names)

    def restore_random(self) -> None:
        """Set the random states to what they were when the iteration began."""
        if self.random is not None:
            self.random.restore()


@dataclass
class Window:
    """From `start` on, the iterations `items` of a loop, the last of which is under way or has just ended."""

    start: Snapshot
    copy: "FullCopy"
    key: tuple[Any, ...]
    n_steps: int
    n_events: int
    began: float = field(default_factory=time.perf_counter)
    items: list[Item] = field(default_factory=list)
    n_bytes: int = 0

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def restore(self, frame: Any, changed: dict[str, Any]) -> None:
        """Put the state at the window's start back; `changed` names are bound otherwise."""
        self.copy.restore()
        self.start.restore(frame, changed)


class FullCopy:
    """All parameters and all optimizers' state, by value; shared by the windows that begin at the same step."""

    def __init__(self, known: Any) -> None:
        self.optimizers = [OptimizerCopy(optimizer) for optimizer in known.optimizers]
        covered = {id(p) for o in known.optimizers for group in o.param_groups for p in group["params"]}
        self.others = [(p, p.detach().clone()) for p in known.parameters() if id(p) not in covered]

    def restore(self) -> None:
        with torch.no_grad():
            for optimizer in self.optimizers:
                optimizer.restore()
            for parameter, copy in self.others:
                if parameter.shape == copy.shape:
                    parameter.detach().copy_(copy)

    @staticmethod
    def n_bytes(known: Any) -> int:
        total = sum(OptimizerCopy.n_bytes(optimizer) for optimizer in known.optimizers)
        covered = {id(p) for o in known.optimizers for group in o.param_groups for p in group["params"]}
        return int(total) + sum(
            int(p.numel()) * int(p.element_size()) for p in known.parameters() if id(p) not in covered
        )


class Windows:
    """The windows of every loop: one from its first iteration on, and the latest ones."""

    def __init__(self, loops: "Loops") -> None:
        self.loops = loops
        self.first: dict[int, Window] = {}
        self.recent: dict[int, list[Window]] = {}
        self._copies = Budget(0.003, n_first=0, free_s=2e-4)
        self._last: tuple[tuple[Any, ...], FullCopy] | None = None
        self._last_step: dict[int, int] = {}
        self.is_enabled = True

    def note(self, current: "Pass") -> None:
        """An iteration begins: its item joins the windows of its loop, and a new window may begin with it."""
        owner = current.owner
        if not self.is_enabled or (owner.n_passes > 3 and not owner.n_training):
            return
        index = current.site.index
        key = (*call_of(current.frame), *(other.serial for other in self.loops.alive()))
        first = self.first.get(index)
        if first is not None and first.key != key and owner.n_training == 0:
            first = None
        if current.snapshot is not None and self._may_begin(current, first, key):
            window = self._begin(current, key)
            if window is not None:
                if first is None or first.key != key:
                    self.first[index] = window
                    self.recent[index] = []
                else:
                    self.recent[index] = [*self.recent.get(index, []), window][-_N_RECENT:]
        self._add_item(current, index, key)

    def _may_begin(self, current: "Pass", first: Window | None, key: tuple[Any, ...]) -> bool:
        n_steps = self.loops.count_steps()
        index = current.site.index
        if first is None or (first.key != key and n_steps == 0):
            return True
        if first.key != key and self._is_shared(n_steps):
            return True
        return n_steps - self._last_step.get(index, 0) >= _MIN_SPACING and self._copies.is_due()

    def _is_shared(self, n_steps: int) -> bool:
        return self._last is not None and self._last[0][0] == n_steps and self._last[0] == self._state(n_steps)

    def _state(self, n_steps: int) -> tuple[Any, ...]:
        """What a copy is of. Before the first step weights may be drawn anew, or spread over ranks."""
        known = self.loops.known
        trained = {str(id(p)): p for p in known.parameters()}
        return n_steps, self.loops.count_events(), len(known.optimizers), tuple(trained), _versions(trained)

    def _begin(self, current: "Pass", key: tuple[Any, ...]) -> Window | None:
        n_steps, n_events = self.loops.count_steps(), self.loops.count_events()
        if self._last is not None and self._is_shared(n_steps):
            copy = self._last[1]
        else:
            if FullCopy.n_bytes(self.loops.known) > MOST_COPIED:
                return None
            with torch.no_grad(), self.loops.charged(self._copies):
                copy = FullCopy(self.loops.known)
            self._last = (self._state(n_steps), copy)
        self._last_step[current.site.index] = n_steps
        assert current.snapshot is not None
        return Window(current.snapshot, copy, key, n_steps, n_events)

    def _add_item(self, current: "Pass", index: int, key: tuple[Any, ...]) -> None:
        windows = [w for w in (self.first.get(index), *self.recent.get(index, [])) if w is not None and w.key == key]
        if not windows:
            return
        names = current.start_values()
        size = _size_of(names)
        random = current.snapshot.random if current.snapshot is not None else None
        item = Item(names, current.drawn, random, _versions(names)) if size is not None else None
        for window in windows:
            window.n_bytes += (size or 0) + 8192
            if item is None or window.n_bytes > _ITEMS_BUDGET or len(window.items) >= _MAX_ITEMS:
                self._forget(index, window)
            else:
                window.items.append(item)

    def _forget(self, index: int, window: Window) -> None:
        if self.first.get(index) is window:
            del self.first[index]
        self.recent[index] = [other for other in self.recent.get(index, []) if other is not window]

    def copies(self) -> list[Window]:
        """Return every window there is: each begins with a full copy of parameters and optimizer state."""
        found = [*self.first.values(), *(window for windows in self.recent.values() for window in windows)]
        return sorted(found, key=lambda window: window.n_steps)

    def of(self, current: "Pass") -> list[Window]:
        """Return the windows that end with this iteration, shortest first."""
        index = current.site.index
        windows = [w for w in (self.first.get(index), *self.recent.get(index, [])) if w is not None]
        alive = self.loops.alive()
        around = alive[alive.index(current) + 1 :] if current in alive else []
        key = (*call_of(current.frame), *(other.serial for other in around))
        fitting = [w for w in windows if w.key == key and w.items]
        return sorted(fitting, key=lambda window: len(window.items))


def call_of(frame: Any) -> tuple[int, int]:
    """Tell one call of a function from the next, whose frame may lie where the last one's lay."""
    return id(frame), frame.f_back.f_lasti if frame.f_back is not None else -1


def _size_of(names: dict[str, Any]) -> int | None:
    """Return the bytes that keeping these values costs; None where they can't be kept unnoticed."""
    total = 0
    todo = [(value, 0) for value in names.values()]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, torch.Tensor):
            if value.is_shared() and value.device.type == "cpu" and depth >= 0 and value.numel() * 4 > 2**20:
                return None  # each holds a file descriptor or a piece of shared memory of a worker's
            total += value.numel() * value.element_size()
        elif isinstance(value, (list, tuple)) and depth < 4:
            todo += [(item, depth + 1) for item in value]
        elif isinstance(value, dict) and depth < 4:
            todo += [(item, depth + 1) for item in value.values()]
        elif type(value).__module__ == "numpy" and hasattr(value, "resize"):
            return None  # a reference more would keep `ndarray.resize` from working
        elif value is _MISSING:
            return None
    return total


def _versions(names: dict[str, Any]) -> tuple[int, ...]:
    found: list[int] = []
    todo = list(names.values())
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor):
            try:
                found.append(value._version)
            except RuntimeError:  # made under inference_mode
                found.append(-1)
        elif isinstance(value, (list, tuple)) and len(value) <= 64:
            todo += value
        elif isinstance(value, dict) and len(value) <= 64:
            todo += value.values()
    return tuple(found)
