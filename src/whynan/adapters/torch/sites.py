"""Loops of the user's program: when an iteration begins, what it looked like; what happened in it."""

import ast
import itertools
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from whynan.adapters.torch.frames import STEP_PREFIX
from whynan.adapters.torch.late import Late
from whynan.adapters.torch.snapshot import KnownState, Snapshot, is_capturing
from whynan.adapters.torch.windows import Windows, call_of
from whynan.launch.host import COLD, Unwind, is_user_file, set_site
from whynan.launch.rewrite import LoopSite
from whynan.records import Stage, What
from whynan.snapshot import NamesSnapshot, find_loop, frame_values
from whynan.watching import Budget

_COLD_AFTER = 64
_COLD_BELOW_S = 1e-3
_SNAPSHOT_SHARE = 0.006
_SNAPSHOT_FREE_S = 1.5e-3
"""A snapshot that takes less is always taken: without one the step can't be run again. Most take a tenth of it."""
_N_FREE = 16
_SERIALS = itertools.count()


@dataclass(frozen=True)
class Moment:
    """Where the program was when a number was asked for that came later."""

    serials: tuple[int, ...]
    """Of the iterations under way, innermost first."""
    step: int
    n_events: int
    line: tuple[str, int | None] | None


@dataclass(frozen=True)
class Past:
    """The latest iteration of a loop, which is over, while numbers of it have not come.

    `key` names the execution of the loop that it belonged to, `counts` are the watch's own when it began.
    """

    serial: int
    key: tuple[Any, ...]
    snapshot: Snapshot
    drawn: list[Any]
    n_steps: int
    n_events: int
    counts: dict[str, Any]


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
        self.skip = 0
        self.past: Past | None = None
        self.is_step = site.filename.startswith(STEP_PREFIX)
        """A step that a trainer calls, each time in a frame of its own."""
        self.repeats = isinstance(find_loop(site), (ast.For, ast.While))
        """Whether its iterations follow each other, and one can stand for the one before."""

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
        "counts",
        "drawn",
        "frame",
        "loops",
        "n_events",
        "n_redrawn",
        "n_steps",
        "own",
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
        self.counts: dict[str, Any] | None = None
        """The watch's own at its first question, which comes before its first update."""
        self.own: tuple[dict[str, Any], list[Any]] | None = None
        """What it ran on itself, while it stands for the iteration before it."""
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

    def key(self) -> tuple[Any, ...]:
        """Return what names this execution of its loop, or this trainer: its frame and the iterations around it."""
        alive = self.loops.alive()
        around = alive[alive.index(self) + 1 :] if self in alive else []
        call = () if self.owner.is_step else call_of(self.frame)
        return (*call, *(other.serial for other in around))

    def can_go_back(self) -> bool:
        """Whether it could be run again in the place of the iteration after it."""
        return self.snapshot is not None and self.owner.repeats and self.counts is not None

    def past(self) -> Past | None:
        """Return what running it again needs when it is over."""
        if self.snapshot is None or self.counts is None or not self.can_go_back():
            return None
        return Past(self.serial, self.key(), self.snapshot, self.drawn, self.n_steps, self.n_events, self.counts)

    def is_at(self, moment: Moment) -> bool:
        """Whether it was under way then."""
        return self.serial in moment.serials

    def is_after(self, moment: Moment) -> bool:
        """Whether it follows an iteration that was under way then, is over, and can be run again in its place."""
        past = self.owner.past
        return past is not None and past.serial in moment.serials and past.key == self.key()

    def began_at(self, moment: Moment) -> int:
        """Return how many events there had been when the iteration of that moment began: this one or the one before."""
        past = self.owner.past
        return self.n_events if self.is_at(moment) or past is None else past.n_events

    def go_back(self) -> dict[str, Any]:
        """Stand for the iteration before, with what that ran on; return the watch's counts at its beginning."""
        past = self.owner.past
        assert past is not None
        self.own = (self.start_values(), self.drawn)
        self.serial, self.snapshot, self.drawn = past.serial, past.snapshot, past.drawn
        self.n_steps, self.n_events = past.n_steps, past.n_events
        NamesSnapshot.bind(self.frame, past.snapshot.bound)
        return past.counts

    def come_back(self, again: bool) -> None:
        """Stand for itself again, as at its beginning where it is to run once more."""
        assert self.own is not None
        (names, self.drawn), self.own = self.own, None
        NamesSnapshot.bind(self.frame, names)
        if again:
            self.serial, self.drawn, self.counts = next(_SERIALS), [], None
            self.n_events, self.n_steps = self.loops.count_events(), self.loops.count_steps()
            self.loops.take_snapshot(self)

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
        self.late = Late()
        """The watch's own, once there is one."""
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
        owner = current.owner
        # The thread's own time: on a busy machine the wall's says little. Reading that clock takes its time, too.
        is_measured = owner.n_passes <= _N_FREE or owner.n_passes % 8 == 0
        began = time.thread_time() if is_measured else 0.0
        tensor = next(iter(self.known.parameters()), None) if owner.accumulates else None
        is_far = tensor is not None and self.late.takes(tensor)  # copies are then its device's work
        with self.late.timed(tensor, owner.note_snapshot) if is_far and is_measured else nullcontext():
            current.snapshot = Snapshot(
                current.frame,
                owner.site,
                self.known,
                small_tensors=owner.n_passes <= 3 or owner.in_place,
                gradients=owner.accumulates,
            )
        if is_measured and not is_far:
            owner.note_snapshot(time.thread_time() - began)

    def charged(self, budget: Budget) -> AbstractContextManager[None]:
        tensor = next(iter(self.known.parameters()), None)
        return self.late.charged(budget, tensor) if tensor is not None else nullcontext()

    def forget(self) -> None:
        """Leave the iterations under way alone: this process was forked out of them."""
        self._passes = []

    def forget_past(self) -> None:
        """Let go of the iterations before those under way: all is known of them."""
        for site in self.sites.values():
            site.past = None

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
    moment: Moment | None = None
    """When it happened, where that was not just now."""


class Leaving(Unwind):
    """Leaves the user's code up to one iteration, or (`target` None) for good."""

    def __init__(self, target: Pass | None) -> None:
        super().__init__()
        self.target = target
