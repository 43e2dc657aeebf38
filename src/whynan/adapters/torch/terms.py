"""The terms of a loss by the names that the script gives them, and which of them went bad first."""

import ast
import linecache
import math
from collections.abc import Iterator
from typing import Any

import torch

from whynan.adapters.torch.sites import Event
from whynan.adapters.torch.sources import storage_key
from whynan.adapters.torch.trace import Tracer
from whynan.records import LossTerm
from whynan.slicing import Slice
from whynan.trace import Frame, OpRecord, ScalarOp

_JOINS = {
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "neg",
    "sum",
    "mean",
    "stack",
    "cat",
    "add_",
    "mul_",
    "div_",
    "view",
    "squeeze",
}
_MOST = 24


def find_terms(
    tracer: Tracer, event: Event, sliced: Slice | None, spaces: list[dict[str, Any]]
) -> tuple[LossTerm, ...]:
    """Return the loss's summands, outermost first; the loss itself where it is no sum."""
    root = _root(tracer, event)
    if root is None:
        return ()
    names = dict(_names_of_scalars(spaces))
    leaves = list(_summands(root, tracer, names))
    whole = names.get(root.key) or _assigned_name(root, root) or event.name
    terms: dict[str, tuple[float, ScalarOp]] = {}
    for scalar in leaves:
        name = names.get(scalar.key) or _assigned_name(scalar, root)
        # A scalar made while the whole was being made stands on the whole's line: that name is not its own.
        if name is not None and name not in terms and (name != whole or scalar is root):
            terms[_telling(name, scalar, root)] = (scalar.value, scalar)
    if not terms or leaves == [root]:
        terms = {whole: (root.value, root)}
    first = _first_bad(terms, tracer, sliced)
    return tuple(LossTerm(name, value, name == first) for name, (value, _) in list(terms.items())[:_MOST])


def _root(tracer: Tracer, event: Event) -> ScalarOp | None:
    """Return the scalar that the backward pass began at: the loss of the event, else the last loss of the trace."""
    scalars = tracer.trace.scalars
    for tensor in event.tensors if event.what in ("loss", "input") else ():  # a bias of one number is no loss
        if isinstance(tensor, torch.Tensor) and tensor.numel() == 1:
            index = tracer.storages.writer(tensor)
            if index in scalars:
                return scalars[index]
    return scalars.get(tracer.last_root) if tracer.last_root is not None else None


def _names_of_scalars(spaces: list[dict[str, Any]]) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield (address, name) of one-element tensors; names of outer frames first, so that inner ones win."""
    for space in reversed(spaces):
        for name, value in space.items():
            if isinstance(value, torch.Tensor):
                if value.numel() == 1 and value.is_floating_point():
                    yield (storage_key(value) or 0, value.storage_offset()), name
            elif isinstance(value, dict) and len(value) <= 64:
                for key, item in value.items():
                    if isinstance(item, torch.Tensor) and item.numel() == 1 and item.is_floating_point():
                        yield (storage_key(item) or 0, item.storage_offset()), str(key)


def _summands(
    scalar: ScalarOp, tracer: Tracer, names: dict[tuple[int, int], str], depth: int = 0
) -> Iterator[ScalarOp]:
    operands = [tracer.trace.scalars[i] for i in scalar.operands if i in tracer.trace.scalars]
    is_root = depth == 0
    if (
        scalar.name in _JOINS
        and operands
        and depth < 24
        and (is_root or scalar.key not in names or scalar.name != "mean")
    ):
        named_here = not is_root and scalar.key in names
        if not named_here:
            for operand in operands:
                yield from _summands(operand, tracer, names, depth + 1)
            return
    yield scalar


def _assigned_name(scalar: ScalarOp, root: ScalarOp) -> str | None:
    """Return the variable that the scalar was assigned to, in the function in which the sum was made."""
    wanted = {(frame.file, frame.function) for frame in root.stack}
    for frame in scalar.stack:
        if (frame.file, frame.function) in wanted:
            name = _target_of(frame)
            if name is not None:
                return name
    return None


def _telling(name: str, scalar: ScalarOp, root: ScalarOp) -> str:
    """Add to a name of one or two letters the user's function that made the scalar: "d (dice_loss)"."""
    wanted = {(frame.file, frame.function) for frame in root.stack}
    outer = next((i for i, frame in enumerate(scalar.stack) if (frame.file, frame.function) in wanted), 0)
    return f"{name} ({scalar.stack[outer - 1].function})" if len(name) <= 2 and outer > 0 else name


def _target_of(frame: Frame) -> str | None:
    text = linecache.getline(frame.file, frame.line).strip()
    try:
        statement = ast.parse(text.removesuffix("\\")).body[0]
    except (SyntaxError, IndexError):
        return text.split("=")[0].strip() if "=" in text and text.split("=")[0].strip().isidentifier() else None
    target = None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        target = statement.target
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        return str(target.slice.value)
    return target.attr if isinstance(target, ast.Attribute) else None


def _first_bad(terms: dict[str, tuple[float, ScalarOp]], tracer: Tracer, sliced: Slice | None) -> str | None:
    bad = [(scalar.index, name) for name, (value, scalar) in terms.items() if not math.isfinite(value)]
    if bad:
        return min(bad)[1]
    origin = sliced.origin if sliced is not None else None
    forward = _forward_index(origin, tracer) if origin is not None else None
    if forward is None:
        return None
    reached = [(scalar.index, name) for name, (_, scalar) in terms.items() if tracer.is_ancestor(forward, scalar.index)]
    return reached[0][1] if len(reached) == 1 else None


def _forward_index(origin: OpRecord, tracer: Tracer) -> int | None:
    if origin.phase == "forward":
        return origin.index
    forward = tracer.trace.forward.get(origin.sequence) if origin.sequence is not None else None
    return forward.index if forward is not None else None
