"""Loops of the user's program: when an iteration begins, what it looked like; several of them to be run again.

A window belongs to one execution of one loop: a full snapshot, and what each iteration since then ran on, kept by
reference within a memory budget: what the loop's names were bound to, what `next` gave, the random states. Where a
whole epoch is an iteration of an outer loop, a window of that loop needs no batches: its body draws them again.
"""

import itertools
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from whynan.adapters.torch.snapshot import (
    MEMORY_BUDGET,
    KnownState,
    OptimizerCopy,
    RandomStates,
    Snapshot,
    is_capturing,
)
from whynan.launch.host import COLD, Unwind, is_user_file, set_site
from whynan.launch.rewrite import LoopSite
from whynan.records.recording import Stage, What
from whynan.snapshot import _MISSING, frame_values
from whynan.watching import Budget

MOST_COPIED = MEMORY_BUDGET // 4
_ITEMS_BUDGET = 64 * 2**20
_MAX_ITEMS = 4096
_MIN_SPACING = 5
_N_RECENT = 2
_COLD_AFTER = 64
_COLD_BELOW_S = 1e-3
_SNAPSHOT_SHARE = 0.006
_SNAPSHOT_FREE_S = 1.5e-3
"""A snapshot that takes less is always taken: without one the step can't be run again. Most take a tenth of it."""
_N_FREE = 16
_SERIALS = itertools.count()


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
        key = (id(current.frame), *(other.serial for other in self.loops.alive()))
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
            self._copies.begin()
            with torch.no_grad():
                copy = FullCopy(self.loops.known)
            self._copies.end()
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
        key = (id(current.frame), *(other.serial for other in around))
        fitting = [w for w in windows if w.key == key and w.items]
        return sorted(fitting, key=lambda window: len(window.items))


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


class Site:
    """One rewritten loop: `iter` begins an iteration. Turns cold where the loop is quick and trains nothing."""

    def __init__(self, site: LoopSite, loops: "Loops") -> None:
        self.site = site
        self.loops = loops
        self.n_passes = 0
        self.n_training = 0
        self.last_trained = -1
        """The serial number of its last iteration in which something was trained."""
        self.n_idle = 0
        self.seconds = 0.0
        self.snapshot_s = 0.0
        self.accumulates = False
        self.in_place: bool = False
        self.writes_weights: bool = False
        """Whether weights are changed between two backward passes."""
        self.skip = 0

    def __iter__(self) -> "Pass":
        self.n_passes += 1
        frame = sys._getframe(1)
        while not is_user_file(frame.f_code.co_filename):
            frame = frame.f_back  # type: ignore[assignment]
        return self.loops.begin(self, frame)

    def note_end(self, seconds: float, trained: bool) -> None:
        """Keep count; after many quick iterations in which nothing was trained the loop is left alone."""
        self.seconds += seconds
        if trained:
            self.n_training += 1
            self.n_idle = 0
            return
        self.n_idle += 1
        if self.n_idle >= _COLD_AFTER and not self.n_training and self.seconds < self.n_passes * _COLD_BELOW_S:
            set_site(self.site.index, COLD)

    def note_snapshot(self, seconds: float) -> None:
        """Keep a running estimate of what one snapshot costs; the first ones, which also learn, count little."""
        self.snapshot_s = min(seconds, 0.8 * self.snapshot_s + 0.2 * seconds) if self.snapshot_s else seconds

    def can_afford_snapshot(self) -> bool:
        """Whether a whole snapshot fits: the first few always, then within its share of the loop's time."""
        if self.n_passes <= _N_FREE or self.snapshot_s < _SNAPSHOT_FREE_S:
            return True
        return self.snapshot_s * self.n_passes < self.seconds * _SNAPSHOT_SHARE


class Pass:
    """One iteration of a user's loop. The loop itself holds it; when the loop is left it is gone."""

    __slots__ = (
        "__weakref__",
        "began",
        "drawn",
        "frame",
        "loops",
        "n_events",
        "n_redrawn",
        "n_steps",
        "owner",
        "serial",
        "snapshot",
        "started",
    )

    def __init__(self, owner: Site, frame: FrameType, loops: "Loops") -> None:
        self.owner = owner
        self.frame = frame
        self.loops = loops
        self.serial = next(_SERIALS)
        self.drawn: list[Any] = []
        self.n_redrawn = 0
        self.started = False
        self.snapshot: Snapshot | None = None
        self.n_events = loops.count_events()
        self.n_steps = loops.count_steps()
        self.began = time.perf_counter()

    @property
    def site(self) -> LoopSite:
        return self.owner.site

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def start_values(self) -> dict[str, Any]:
        """Return what the loop's own names stand for; called when the iteration begins."""
        if self.snapshot is not None:
            return self.snapshot.bound
        values = frame_values(self.frame) or {}
        return {name: values[name] for name in self.site.targets if name in values}

    @property
    def trained(self) -> bool:
        return self.loops.count_events() > self.n_events

    def __iter__(self) -> "Pass":
        return self

    def __next__(self) -> tuple[()]:
        if not self.started:
            self.started = True
            return ()
        if self.loops.run_again(self):
            return ()
        raise StopIteration


class Loops:
    """The iterations under way, outermost first."""

    def __init__(
        self,
        known: KnownState,
        count_events: Callable[[], int],
        count_steps: Callable[[], int],
        run_again: Callable[[Pass], bool],
        is_replaying: Callable[[], bool],
    ) -> None:
        self.known = known
        self.count_events = count_events
        self.count_steps = count_steps
        self.run_again = run_again
        self.is_replaying = is_replaying
        self.sites: dict[int, Site] = {}
        self._passes: list[weakref.ref[Pass]] = []
        self.windows = Windows(self)
        self.begins: Callable[[Pass], bool] | None = None
        """Asked of each iteration whether it changed the state that the snapshot was taken of."""

    def new_site(self, site: LoopSite) -> Site:
        self.sites[site.index] = Site(site, self)
        return self.sites[site.index]

    def begin(self, owner: Site, frame: FrameType) -> Pass:
        """Begin an iteration: take the snapshot that a replay of it would need."""
        if self._passes:
            self._passes = [ref for ref in self._passes if ref() is not None]
        current = Pass(owner, frame, self)
        if self.is_replaying() or is_capturing():
            self._passes.append(weakref.ref(current))
            return current
        if owner.can_afford_snapshot():
            self.take_snapshot(current)
            if self.begins is not None and self.begins(current):
                self.take_snapshot(current)
        self.windows.note(current)
        self._passes.append(weakref.ref(current))
        return current

    def take_snapshot(self, current: Pass) -> None:
        """Take the snapshot of an iteration, and note what it has cost."""
        owner = current.owner
        # The thread's own time: on a busy machine the wall's says little. Reading that clock takes its time, too.
        is_measured = owner.n_passes <= _N_FREE or owner.n_passes % 8 == 0
        began = time.thread_time() if is_measured else 0.0
        current.snapshot = Snapshot(
            current.frame,
            owner.site,
            self.known,
            small_tensors=owner.n_passes <= 3 or owner.in_place,
            gradients=owner.accumulates,
        )
        if is_measured:
            owner.note_snapshot(time.thread_time() - began)

    def forget(self) -> None:
        """Leave the iterations under way alone: this process was forked out of them."""
        self._passes = []

    def alive(self) -> list[Pass]:
        return [current for ref in reversed(self._passes) if (current := ref()) is not None and current.started]

    def on_stack(self, frame: FrameType | None) -> list[Pass]:
        """Return the iterations whose frames are on the stack and outside of any module's forward, innermost first."""
        frames: list[FrameType] = []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        outer_forward = max((i for i, f in enumerate(frames) if f.f_code.co_name == "_call_impl"), default=-1)
        outside = {id(f) for f in frames[outer_forward + 1 :]}
        return [current for current in self.alive() if id(current.frame) in outside]

    def of(self, index: int, frame: FrameType) -> Pass | None:
        """Return the iteration of loop `index` that runs in `frame`."""
        for current in self.alive():
            if current.site.index == index and current.frame is frame:
                return current
        return None


@dataclass
class Event:
    """A non-finite value at a point where the program uses it. `tensors` are live; nobody keeps the event for long."""

    what: What
    when: str
    tensors: list[Any] = field(repr=False)
    name: str
    kind: str
    n_tensors: int = 1
    line: tuple[str, int | None] | None = None
    differentiable: bool = True
    error: BaseException | None = None
    stage: Stage = "train"
    was_skipped: bool = False
    is_loss: bool = False
    """Its name alone says that it is a loss."""


class Leaving(Unwind):
    """Leaves the user's code up to one iteration, or (`target` None) for good."""

    def __init__(self, target: Pass | None) -> None:
        super().__init__()
        self.target = target
