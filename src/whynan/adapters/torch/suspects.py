"""Non-finite losses that the script notices before we do: in its variables, in an exception's frames."""

import linecache
import re
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

from whynan.adapters.torch.elements import kind_at, nonfinite_elements
from whynan.adapters.torch.event import Event
from whynan.adapters.torch.reads import sounds_like_loss
from whynan.adapters.torch.sites import Pass
from whynan.launch.host import is_user_file
from whynan.launch.rewrite import LoopSite
from whynan.launch.traceback import whynan_frame
from whynan.snapshot.python_state import frame_values

MANY_SKIPS = 8
_SPEAKS_OF_NONFINITE = re.compile(
    r"\bnan\b|\binf\b|infinit|finite|invalid values|did not converge|failed to converge|ill-condition|singular|"
    r"positive height and width|satisfy the constraint|between 0 and 1|not positive-definite|diverge",
    re.IGNORECASE,
)
_GUARDS = re.compile(r"positive height and width|degenerate|invalid box", re.IGNORECASE)
_NUMBERS_GO_WRONG = (ValueError, RuntimeError, AssertionError, ArithmeticError, SystemExit)
_STRONG = re.compile(r"\.backward\(|\.step\(|autograd\.grad\(")
_WEAK = re.compile(r"train|update|optimi|fit\(|learn|loss|criterion")


_VALIDATION = re.compile(
    r"(?<![a-z])(val|valid|validation|eval|evaluation|test|dev|holdout|heldout)(?![a-z])", re.IGNORECASE
)


def is_validation_loss(name: str) -> bool:
    """Whether a variable or a key is called like a loss over data that nothing is trained on."""
    return _VALIDATION.search(name) is not None and sounds_like_loss(name)


def loss_in_frame(frame: FrameType, site: LoopSite, trained: bool) -> Event | None:
    """Return a non-finite one-element tensor that the body has assigned, called like a loss or differentiable."""
    values = frame_values(frame) or {}
    for name in site.assigned:
        for label, tensor in _scalars(name, values.get(name)):
            if trained and not tensor.requires_grad:
                continue
            if not tensor.requires_grad and not sounds_like_loss(label):
                continue
            kind = kind_at(tensor, (0,) * tensor.dim())
            if kind is not None:
                event = Event("loss", "exit", [tensor], label, kind)
                event.differentiable = tensor.requires_grad
                event.line = (frame.f_code.co_filename, frame.f_lineno)
                return event
    return None


def _scalars(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        if value.numel() == 1 and value.is_floating_point() and value.device.type == "cpu":
            yield name, value
    elif isinstance(value, dict) and len(value) <= 64:
        for key, item in value.items():
            if isinstance(item, torch.Tensor):
                yield from _scalars(str(key), item)


def spoken(error: BaseException) -> BaseException:
    """Return the exception of the chain that speaks of such numbers: a script may catch one to leave by another."""
    found: BaseException | None = error
    for _ in range(4):
        if found is None:
            break
        if isinstance(found, _NUMBERS_GO_WRONG) and _SPEAKS_OF_NONFINITE.search(str(found)):
            return found
        found = found.__cause__ or found.__context__
    return error


def nonfinite_in_exception(error: BaseException, frame: FrameType) -> Event | None:
    """Return the non-finite tensor that an exception is about, where it is about one.

    Frames are looked through from where the exception was raised outwards, to the loop's own frame. A tensor counts if
    the message speaks of such numbers, or if it is a loss and the script itself raised (or left) because of it.
    """
    if not isinstance(error, (*_NUMBERS_GO_WRONG, torch.linalg.LinAlgError)):
        return None
    message = str(error)
    speaks = bool(_SPEAKS_OF_NONFINITE.search(message))
    frames = _frames(error)
    for inner in reversed(frames):
        for name, value in (frame_values(inner) or {}).items():
            event = _loss_or_spoken_of(name, value, speaks, isinstance(error, torch.linalg.LinAlgError))
            if event is not None:
                event.line = (inner.f_code.co_filename, inner.f_lineno)
                return event
        if inner is frame:
            break
    if _GUARDS.search(message):
        event = Event("input", "exception", [], "targets", "nan")
        inner = next((f for f in reversed(frames) if is_user_file(f.f_code.co_filename)), frame)
        lines = dict(_lines(error))
        event.line = (inner.f_code.co_filename, lines.get(inner, inner.f_lineno))
        return event
    return None


def _loss_or_spoken_of(name: str, value: Any, speaks: bool, infinities_count: bool) -> Event | None:
    for label, tensor in _tensors(name, value):
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.layout != torch.strided:
            continue
        is_loss = tensor.numel() == 1 and (tensor.requires_grad or sounds_like_loss(label))
        if not (speaks or is_loss) or bool(torch.isfinite(tensor.detach()).all()):
            continue
        kind = nonfinite_elements(tensor, 1)[1]
        if kind == "nan" or is_loss or infinities_count:
            return Event("loss" if is_loss else "input", "exception", [tensor], label, kind)
    return None


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict) and len(value) <= 64:
        for key, item in value.items():
            if isinstance(item, torch.Tensor):
                yield str(key), item
    elif isinstance(value, (list, tuple)) and len(value) <= 16:
        for item in value:
            if isinstance(item, torch.Tensor):
                yield name, item


def _frames(error: BaseException) -> list[FrameType]:
    found = []
    trace = error.__traceback__
    while trace is not None:
        if not whynan_frame(trace.tb_frame.f_code):
            found.append(trace.tb_frame)
        trace = trace.tb_next
    return found


def _lines(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def training_iteration(candidates: list[Pass]) -> Pass | None:
    """Of the iterations on the stack, innermost first, return the one that is a training (or validation) step."""
    for current in candidates:
        if current.trained or current.owner.n_training:
            return current
    for pattern in (_STRONG, _WEAK):
        for current in candidates:
            site = current.site
            body = "".join(linecache.getlines(site.filename)[site.body_first_line - 1 : site.body_last_line])
            if pattern.search(body):
                return current
    return candidates[0] if candidates else None


def by_text(candidates: list[Pass]) -> Pass | None:
    """Return the innermost iteration whose source runs a backward pass or an optimizer's step."""
    for current in candidates:
        site = current.site
        body = "".join(linecache.getlines(site.filename)[site.body_first_line - 1 : site.body_last_line])
        if _STRONG.search(body):
            return current
    return None
