"""What shows a program as plain python would: plain code beside the rewritten, tracebacks without whynan's frames."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, Final

_pairs: dict[str, list[tuple[CodeType, CodeType]]] = {}
_plain: dict[tuple[str, CodeType], CodeType] = {}
_PACKAGE: Final = str(Path(__file__).resolve().parents[1]) + "/"
_PACKAGE_AS_IMPORTED: Final = __file__.removesuffix("launch/plain.py")


def remember(rewritten: CodeType, plain: CodeType) -> None:
    """Keep the plain code of a module that was rewritten."""
    _pairs.setdefault(rewritten.co_filename, []).append((rewritten, plain))


def plain_code(code: CodeType) -> CodeType:
    """Return what plain python would have compiled where whynan compiled `code`; `code` itself if it is not ours."""
    for rewritten, plain in _pairs.pop(code.co_filename, ()):
        _pair(rewritten, plain)
    return _plain.get((code.co_filename, code), code)


def _pair(rewritten: CodeType, plain: CodeType) -> None:
    """Walk two versions of one module; rewriting adds no function and changes no order."""
    _plain[rewritten.co_filename, rewritten] = plain
    inner = [const for const in rewritten.co_consts if isinstance(const, CodeType)]
    inner_plain = [const for const in plain.co_consts if isinstance(const, CodeType)]
    if [code.co_qualname for code in inner] == [code.co_qualname for code in inner_plain]:
        for one, other in zip(inner, inner_plain):
            _pair(one, other)


def rewritten_code(code: CodeType) -> CodeType:
    """Return the rewritten form of plain code, whichever copy of it; `code` itself where there is none."""
    plain_code(code)
    for (filename, rewritten), plain in _plain.items():
        if filename == code.co_filename and plain == code:
            return rewritten
    return code


def whynan_frame(code: CodeType) -> bool:
    """Whether this code is part of whynan."""
    return code.co_filename.startswith((_PACKAGE, _PACKAGE_AS_IMPORTED)) or code is ENTER_CODE


def strip_frames(error: BaseException) -> None:
    """Take whynan's frames out of the traceback of `error` and of all exceptions that it hangs on to."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        tb = one.__traceback__
        if tb is not None:
            stripped = without_whynan(tb)
            if stripped is not tb:
                one.__traceback__ = stripped
        todo.append(one.__cause__)
        todo.append(one.__context__)
        if isinstance(one, BaseExceptionGroup):
            todo.extend(one.exceptions)


def without_whynan(tb: TracebackType | None) -> TracebackType | None:
    """Return the traceback without whynan's frames; the user's entries are the same objects."""
    while tb is not None and whynan_frame(tb.tb_frame.f_code):
        tb = tb.tb_next
    kept = tb
    while kept is not None:
        following = kept.tb_next
        while following is not None and whynan_frame(following.tb_frame.f_code):
            following = following.tb_next
        if following is not kept.tb_next:
            kept.tb_next = following
        kept = following
    return tb


# A warning whose `stacklevel` reaches beyond the program's first frame is attributed by plain python to "sys", line 1.
# Under whynan there are frames beyond; those next to the program carry the same name.
_SOURCE = "def enter(run, args, more): return enter(run, args, more - 1) if more else run(*args)"
_FILENAME = "sys" if sys.version_info < (3, 12) else "<sys>"
_N_FRAMES = 4


def _make_enter() -> Callable[..., Any]:
    names: dict[str, Any] = {"__name__": "sys"}
    exec(compile(_SOURCE, _FILENAME, "exec", dont_inherit=True), names)
    enter: Callable[..., Any] = names["enter"]
    return enter


_enter = _make_enter()
ENTER_CODE: CodeType = _enter.__code__


def call_outermost(run: Callable[..., Any], *args: Any) -> Any:
    """Call `run(*args)`, where `run` starts the user's program."""
    return _enter(run, args, _N_FRAMES - 1)
