"""What the rewritten code calls: names in `builtins`, answered by the host that an adapter has set.

An error in a host never reaches the user's program: it is told once on standard error, and the program goes on as if
there were no host.
"""

import builtins
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any, Final, Protocol

from whynan.launch.plain import remember, strip_frames, whynan_frame
from whynan.launch.rewrite import LoopSite
from whynan.report import write_safely

COLD: Final = ((),)
"""The site of a loop that is known not to train: its body runs once, at the cost of iterating over a tuple."""


class Unwind(BaseException):
    """Leaves the user's loop body on whynan's behalf: for a replay, or because the run was stopped."""


class Host(Protocol):
    """Answers the rewritten code. Every method runs in the middle of the user's program."""

    def new_site(self, site: LoopSite) -> Iterable[tuple[()]]:
        """Return what the body of this loop is run for: once for each `()`."""

    def failed(self, index: int) -> bool:
        """Whether the exception being handled is to be dropped, so that the site of loop `index` decides what next."""

    def leave(self, value: Any = None) -> Any:
        """Return `value`, or raise `Unwind` where a symptom is pending: the body is about to be left."""

    def drawn(self, value: Any) -> Any:
        """Return `value`, which the user's code just got from `next`."""

    def asked(self, value: Any) -> Any:
        """Return `value`, of which the user's code asks whether it is finite."""

    def redrawn(self) -> Any:
        """Return, in a replay, what `next` returned the first time."""


class PlainHost:
    """Changes nothing."""

    def new_site(self, site: LoopSite) -> Iterable[tuple[()]]:
        return COLD

    def failed(self, index: int) -> bool:
        return False

    def leave(self, value: Any = None) -> Any:
        return value

    def drawn(self, value: Any) -> Any:
        return value

    def asked(self, value: Any) -> Any:
        return value

    def redrawn(self) -> Any:
        raise LookupError("nothing is being replayed")


user_codes: dict[str, list[LoopSite]] = {}
"""The loops of each file that was rewritten, by the file's name in its code objects."""

_sites: dict[int, LoopSite] = {}
_host: Host = PlainHost()
_told: set[str] = set()


def install() -> None:
    """Put the names that rewritten code uses into `builtins`, with a host that changes nothing."""
    builtins.__dict__["__whynan_caught__"] = caught
    set_replaying(False)
    set_host(PlainHost())


def set_host(host: Host) -> None:
    """Let `host` answer from now on, for the loops that are compiled already too."""
    global _host
    _host = host
    names = builtins.__dict__
    if type(host) is PlainHost:
        names.update(__whynan_failed__=host.failed, __whynan_leave__=host.leave)
        names.update(__whynan_drawn__=host.drawn, __whynan_redrawn__=host.redrawn, __whynan_asked__=host.asked)
    else:
        names.update(__whynan_failed__=_failed, __whynan_leave__=_leave)
        names.update(__whynan_drawn__=_drawn, __whynan_redrawn__=host.redrawn, __whynan_asked__=_asked)
    for site in list(_sites.values()):
        _create(site)


def current_host() -> Host:
    return _host


def set_replaying(replaying: bool) -> None:
    """Say whether `next(...)` in the user's code is answered by the host."""
    builtins.__dict__["__whynan_replaying__"] = replaying


def register(
    filename: str, sites: Iterable[LoopSite], rewritten: CodeType | None = None, plain: CodeType | None = None
) -> None:
    """Make the loops of a file known and runnable; called before its code runs."""
    if rewritten is not None and plain is not None:
        remember(rewritten, plain)
    user_codes[filename] = list(sites)
    for site in user_codes[filename]:
        _sites[site.index] = site
        _create(site)


def set_site(index: int, site: Iterable[tuple[()]]) -> None:
    """Replace what loop `index` iterates over; counts from the next iteration of the user's loop on."""
    builtins.__dict__[f"__whynan_site_{index}__"] = site if site is COLD else GuardedSite(index, site)


def all_sites() -> tuple[LoopSite, ...]:
    return tuple(_sites.values())


def is_user_file(filename: str) -> bool:
    """Whether code objects of this file name are the user's own, compiled by whynan."""
    return filename in user_codes


def innermost_site(frame: FrameType) -> LoopSite | None:
    """Return the innermost rewritten loop in whose body this frame stands."""
    code, line = frame.f_code, frame.f_lineno
    found: LoopSite | None = None
    for site in user_codes.get(code.co_filename, ()):
        if line is None or not site.body_first_line <= line <= site.body_last_line or not _is_of(site, code):
            continue
        # Loops are listed outer before inner, and of two bodies on one line the later listed is the inner one.
        found = site
    return found


def _is_of(site: LoopSite, code: CodeType) -> bool:
    return site.function == code.co_qualname and site.function_line in (0, code.co_firstlineno)


def tell(what: str, error: BaseException | None = None) -> None:
    """Say once on standard error that a part of whynan failed; the run goes on without it."""
    text = f"{what}: {type(error).__name__}: {error}" if error is not None else what
    if text not in _told and sys.__stderr__ is not None:
        _told.add(text)
        write_safely(f"whynan: {text}; the run goes on without it\n", sys.__stderr__)


# What rewritten code calls ---------------------------------------------------------------------------------------


def caught() -> None:
    """First statement of the user's `except` clauses: whynan's own exception passes, its frames are not seen."""
    error = sys.exc_info()[1]
    if isinstance(error, Unwind):
        raise error
    if error is not None:
        strip_frames(error)


def _failed(index: int) -> bool:
    try:
        return _host.failed(index)
    except Exception as error:
        tell("looking at an exception of the script failed", error)
        return False


def _leave(value: Any = None) -> Any:
    try:
        return _host.leave(value)
    except Exception as error:
        tell("looking at the end of an iteration failed", error)
        return value


def exiting() -> None:
    """Called before `os._exit`: a host may raise `Unwind`, since this way out of a loop's body is not rewritten."""
    ask = getattr(_host, "exiting", None)
    try:
        if ask is not None:
            ask()
    except Exception as error:
        tell("looking at the end of the program failed", error)


def _drawn(value: Any) -> Any:
    try:
        return _host.drawn(value)
    except Exception as error:
        tell("remembering an item for the replay failed", error)
        return value


def _asked(value: Any) -> Any:
    try:
        return _host.asked(value)
    except Exception as error:
        tell("looking at a number that the script asks about failed", error)
        return value


class GuardedSite:
    """A host's site whose errors end the watching of its loop and not the user's run."""

    __slots__ = ("index", "site")

    def __init__(self, index: int, site: Iterable[tuple[()]]) -> None:
        self.index = index
        self.site = site

    def __iter__(self) -> Iterator[tuple[()]]:
        try:
            return _GuardedPass(self.index, iter(self.site).__next__)
        except Exception as error:
            _give_up(self.index, error)
            return iter(COLD)


class _GuardedPass:
    __slots__ = ("draw", "index", "n_runs")

    def __init__(self, index: int, draw: Callable[[], tuple[()]]) -> None:
        self.index = index
        self.draw = draw
        self.n_runs = 0

    def __iter__(self) -> "_GuardedPass":
        return self

    def __next__(self) -> tuple[()]:
        try:
            again = self.draw()
        except StopIteration:
            if self.n_runs:
                raise
            return self._run_once()
        except Exception as error:
            _give_up(self.index, error)
            if self.n_runs:
                raise StopIteration from None
            return self._run_once()
        self.n_runs += 1
        return again

    def _run_once(self) -> tuple[()]:
        # The user's body runs at least once, whatever a host does.
        self.n_runs = 1
        return ()


def _create(site: LoopSite) -> None:
    try:
        set_site(site.index, _host.new_site(site))
    except Exception as error:
        _give_up(site.index, error)


def _give_up(index: int, error: Exception) -> None:
    set_site(index, COLD)
    tell(f"watching loop {index} failed", error)


__all__ = [
    "COLD",
    "GuardedSite",
    "Host",
    "LoopSite",
    "PlainHost",
    "Unwind",
    "all_sites",
    "current_host",
    "innermost_site",
    "install",
    "is_user_file",
    "register",
    "set_host",
    "set_replaying",
    "set_site",
    "strip_frames",
    "tell",
    "user_codes",
    "whynan_frame",
]
