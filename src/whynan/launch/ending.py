"""The end of the user's program: its exception, its exit status, and what must be written before either."""

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from whynan.launch import host
from whynan.launch.host import Unwind
from whynan.launch.traceback import strip_frames, without_whynan

STOPPED = 3
"""Exit status of a run that was stopped at an incident."""

_callbacks: list[Callable[[], object]] = []


def before_exit(callback: Callable[[], object]) -> None:
    """Call `callback` where the program ends the process by `os._exit`, which runs no handlers of its own."""
    _callbacks.append(callback)


def watch_exit() -> None:
    """Make `os._exit` run the `before_exit` callbacks; in this process, not in its forks."""
    pid, leave = os.getpid(), os._exit

    def _exit(status: int) -> NoReturn:
        if os.getpid() == pid:
            host.exiting()
            _run_callbacks()
        leave(status)

    os._exit = _exit


def _run_callbacks() -> None:
    while _callbacks:
        try:
            _callbacks.pop(0)()
        except Exception as error:
            host.tell("writing the report failed", error)


def end(error: BaseException | None, status: int | None) -> None:
    """End the program as `error` would end a plain run, with exit status `status` where one is given.

    Returns where the program simply ended; the interpreter then goes on to threads and `atexit`.
    """
    if isinstance(error, Unwind):
        sys.exit(STOPPED if status is None else status)
    if error is None or isinstance(error, SystemExit):
        if status is not None:
            sys.exit(status)
        if error is not None:
            raise error
        return
    _show_as_plain(error)
    if status is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(status)
    raise error


def user_error(error: BaseException) -> BaseException:
    """Return `error` without the frames that lie between the interpreter and the user's program."""
    strip_frames(error)
    return error


def _show_as_plain(error: BaseException) -> None:
    """Let the hook that the program has set see the traceback that a plain run would show it."""
    hook = sys.excepthook
    tb = without_whynan(error.__traceback__)

    def show(kind: type[BaseException], shown: BaseException, raised_at: TracebackType | None) -> Any:
        if shown is error:
            shown.__traceback__ = sys.last_traceback = raised_at = tb
        return hook(kind, shown, raised_at)

    sys.excepthook = show
