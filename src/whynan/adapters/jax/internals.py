"""The few things of JAX that are not public, in one place: a new version is looked at here."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

from jax._src import core, source_info_util

Literal = core.Literal
Var = core.Var


def is_outermost() -> bool:
    """Whether no transformation or compilation is under way: arrays are arrays and not tracers."""
    return bool(core.trace_state_clean())


def frames_of(eqn: Any) -> tuple[list[CodeType], list[int]]:
    """Return the Python frames in which an equation was made, innermost first: code objects and instructions."""
    traceback = eqn.source_info.traceback
    if traceback is None:
        return [], []
    codes, lasti = traceback.raw_frames()
    return codes, lasti


def name_stack_of(eqn: Any) -> str:
    return str(eqn.source_info.name_stack)


def bind(eqn: Any, values: list[Any]) -> list[Any]:
    params = eqn.primitive.get_bind_params(eqn.params)
    if isinstance(params, tuple):  # before 0.10: functions apart from the rest
        functions, params = params
        result = eqn.primitive.bind(*functions, *values, **params)
    else:
        result = eqn.primitive.bind(*values, **params)
    return list(result) if eqn.primitive.multiple_results else [result]


@contextmanager
def own_lines() -> Iterator[None]:
    """Let operations be known by the line that makes them, not by the one whose derivative they are."""
    place = source_info_util._source_info_context
    before = place.context
    place.context = source_info_util.new_source_info()
    try:
        yield
    finally:
        place.context = before
