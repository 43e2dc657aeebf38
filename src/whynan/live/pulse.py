"""The heart beat of a watched run: after each step the viewers that are due get its numbers."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from whynan.launch.host import tell
from whynan.watching.history import RunHistory


@dataclass(frozen=True)
class Beat:
    """The numbers of one step. `terms` are the summands of the loss by name, where they are known."""

    step: int
    loss: float | None
    grad_norm: float | None
    lr: float | None
    scale: float | None
    terms: dict[str, float] = field(default_factory=dict)


class Viewer(Protocol):
    """Something that shows steps: `interval` seconds lie between two of them at least."""

    interval: float

    def show(self, beat: Beat) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """The run has ended."""


class Pulse:
    """Hands steps on to viewers. `terms_now` reads the loss terms of the step that has just been made."""

    def __init__(self, terms_now: Callable[[], dict[str, float]] | None = None) -> None:
        self.terms_now = terms_now
        self.n_steps = 0
        self._viewers: list[Viewer] = []
        self._next: list[float] = []

    def add(self, viewer: Viewer) -> None:
        self._viewers.append(viewer)
        self._next.append(0.0)

    def __bool__(self) -> bool:
        return bool(self._viewers)

    def step(self, history: RunHistory) -> None:
        """A step has been made. A viewer that fails is not asked again; the run goes on."""
        self.n_steps += 1
        now = time.monotonic()
        due = [k for k, viewer in enumerate(self._viewers) if now >= self._next[k]]
        if not due:
            return
        beat = self._beat(history)
        for k in due:
            try:
                self._viewers[k].show(beat)
            except Exception as error:
                tell(f"{type(self._viewers[k]).__name__} failed", error)
                self._next[k] = math.inf
                continue
            self._next[k] = now + self._viewers[k].interval

    def _beat(self, history: RunHistory) -> Beat:
        terms: dict[str, float] = {}
        try:
            terms = self.terms_now() if self.terms_now is not None else {}
        except Exception as error:
            tell("reading the loss terms failed", error)
            self.terms_now = None
        loss, grad_norm, lr, scale = (
            series.last() for series in (history.loss, history.grad_norm, history.lr, history.scale)
        )
        return Beat(self.n_steps - 1, loss, grad_norm, lr, scale, terms)

    def close(self) -> None:
        for viewer in self._viewers:
            try:
                viewer.close()
            except Exception as error:
                tell(f"closing {type(viewer).__name__} failed", error)
        self._viewers, self._next = [], []
