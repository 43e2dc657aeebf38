"""`whynan.jax.watch`: watches a training step in a program that runs by itself."""

import functools
import sys
from collections.abc import Callable
from typing import Any, Unpack, overload

import jax

from whynan.api import Report
from whynan.api.trainers import Options, Standing


@overload
def watch(step: Callable[..., Any]) -> "WatchedStep": ...
@overload
def watch(**options: Unpack[Options]) -> "Callable[[Callable[..., Any]], WatchedStep]": ...
def watch(step: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Watch an update step: find the operation, the line, the sample and the cause of its first NaN or Inf.

        @whynan.jax.watch
        @jax.jit
        def update(params, batch): ...

    `policy` is what happens at an incident: "stop" raises NonFiniteError with the report, "recover" returns what was
    before the step in the place of what it made, "observe" explains and changes nothing. `budget` bounds the seconds
    spent on one incident, `prove=False` leaves the experiments out, `out` is a folder for report.json and report.html,
    `on_incident` gets each incident. Results are looked at when they are there: a failure is raised by one of the next
    calls, or by `.report`, which waits for the last of them.
    """
    filename = sys._getframe(1).f_code.co_filename
    if step is None:
        return lambda function: WatchedStep(function, Standing(filename, **options))
    return WatchedStep(step, Standing(filename))


class WatchedStep:
    """A step that is watched. `close` ends that; the report stays."""

    def __init__(self, step: Callable[..., Any], standing: Standing) -> None:
        functools.update_wrapper(self, step, updated=())
        self._standing = standing
        standing.session.attach_jax(jax)
        # A version that is not watched has been told of; the step runs as it is then.
        self._step = standing.host.watch.watched(step) if standing.watches("jax") else step

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    @property
    def report(self) -> Report:
        """Return what has been found so far, the last call included."""
        if self._standing.host is not None:
            self._standing.look()
        return self._standing.report

    def close(self) -> None:
        """Stop watching."""
        self._standing.close()
