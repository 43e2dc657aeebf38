"""Runs a function of the user's under a trace function and finds the line whose operation made its result non-finite.

Each executed statement is compared with what it left behind: an event is a statement that made something bad, with
the events that had made what it read. The way back from the result through these events ends at the origin; a bad
value that was cleaned, or that does not reach the result, is never on it.
"""

import ast
import contextlib
import io
import linecache
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from whynan.adapters.common.arrays import is_bad, is_torch_tensor, summarize, to_numpy
from whynan.adapters.common.data.evaluate import (
    Culprit,
    bad_reads,
    changes_in_place,
    find_culprit,
    header,
    op_name,
    statement_at,
)
from whynan.records import TensorSummary

_COPY_LIMIT = 1 << 22
"""Elements of an array that is copied before a statement that may change it."""


class OutOfTime(BaseException):
    """Raised inside the user's function when its budget is spent; no `except Exception` swallows it."""


@dataclass
class Operation:
    """An operation that was seen to turn finite inputs into a bad output while a statement ran."""

    op: str
    event: str | None
    place: int
    inputs: tuple[Any, ...] = ()
    output: Any = None


@dataclass
class Event:
    frame: FrameType
    file: str
    line: int
    function: str
    statement: ast.stmt | None
    sources: list["Event"] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)
    value: Any = None


@dataclass
class _Running:
    """The statement that a frame is at, with the state before it."""

    statement: ast.stmt | None
    line: int
    names: dict[str, Any]
    reads: list[str]
    bad_before: set[str]
    returned: list[Event] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)


class LineWatch:
    """Trace function and memory of one call. `result_event` is the event of the bad value that came out, if any."""

    def __init__(self, is_user_file: Callable[[str], bool], deadline: float, record: bool = True) -> None:
        self.is_user_file = is_user_file
        self.deadline = deadline
        self.record = record
        self.running: dict[FrameType, _Running] = {}
        self.leaving: dict[FrameType, _Running] = {}
        self.made: dict[tuple[FrameType, str], Event] = {}
        self.by_id: dict[int, tuple[Any, Event]] = {}
        self.roots: list[Event] = []

    def call(self, function: Callable[[], Any]) -> Any:
        """Return `function()`; its exceptions pass, so does OutOfTime."""
        before = sys.gettrace()
        with self.operations():
            sys.settrace(self.enter)
            try:
                return function()
            finally:
                sys.settrace(before)

    @property
    def result_event(self) -> Event | None:
        return self.roots[-1] if self.roots else None

    def operations(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def unseen(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def enter(self, frame: FrameType, what: str, arg: Any) -> Any:
        if not self.is_user_file(frame.f_code.co_filename):
            return None
        self._check_time()
        if self.record and not frame.f_code.co_flags & 0x20:  # a generator's frame comes and goes
            self._inherit(frame)
        return self.step

    def step(self, frame: FrameType, what: str, arg: Any) -> Any:
        if what == "line":
            self._check_time()
        if self.record:
            # Our own look at the values must not count as operations of the user's line.
            with self.unseen():
                if what == "line":
                    self._line(frame)
                elif what == "return":
                    self._return(frame, arg)
        return self.step

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def _inherit(self, frame: FrameType) -> None:
        """Link bad arguments to what made them in the calling line."""
        caller = self._traced_above(frame)
        for name, value in frame.f_locals.items():
            if not is_bad(value):
                continue
            known = self.by_id.get(id(value))
            if known is not None:
                self.made[frame, name] = known[1]
            elif caller is not None:
                above, running = caller
                self.made[frame, name] = self._event(above, running, value)
            elif self.roots:  # a library passes one user function's result on to the next
                self.made[frame, name] = self.roots[-1]

    def _traced_above(self, frame: FrameType) -> tuple[FrameType, _Running] | None:
        above = frame.f_back
        while above is not None:
            running = self.running.get(above)
            if running is not None:
                return above, running
            above = above.f_back
        return None

    def _line(self, frame: FrameType) -> None:
        statement = statement_at(frame.f_code.co_filename, frame.f_lineno)
        running = self.running.get(frame)
        if running is not None:
            if statement is not None and statement is running.statement and not _repeats(statement, frame, running):
                return
            self._finish(frame, running)
            if isinstance(running.statement, ast.Return):  # the line of a `with` or `finally` comes once more
                self.leaving[frame] = running
        self.running[frame] = self._begin(frame, statement)

    def _begin(self, frame: FrameType, statement: ast.stmt | None) -> _Running:
        names = {**frame.f_globals, **frame.f_locals}
        reads = bad_reads(header(statement), names) if statement is not None else []
        if statement is not None and changes_in_place(statement):
            names.update(_copies(frame.f_locals))
        bad_before = {name for name, value in frame.f_locals.items() if is_bad(value)}
        return _Running(statement, frame.f_lineno, names, reads, bad_before)

    def _finish(self, frame: FrameType, running: _Running) -> None:
        """See what a statement left behind: a variable that is bad and was not, or is another bad object now."""
        for name, value in frame.f_locals.items():
            if name in running.bad_before and running.names.get(name) is value:
                continue
            if is_bad(value):
                known = self.by_id.get(id(value))
                if known is not None and known[1].frame is not frame:
                    self.made[frame, name] = known[1]
                elif not (name in running.bad_before and name not in _stored_names(running.statement)):
                    self.made[frame, name] = self._event(frame, running, value)
            else:
                self.made.pop((frame, name), None)

    def _return(self, frame: FrameType, value: Any) -> None:
        running = self.running.pop(frame, None)
        if running is None:
            return
        self._finish(frame, running)
        running = self.leaving.pop(frame, running)
        if not is_bad(value):
            return
        event = self._event(frame, running, value)
        if len(event.sources) == 1 and not event.operations and event.sources[0].frame is frame:
            event = event.sources[0] if _is_plain_return(running.statement) else event
        self.by_id[id(value)] = (value, event)
        above = self._traced_above(frame)
        if above is None:
            self.roots.append(event)
        else:
            above[1].returned.append(event)

    def _event(self, frame: FrameType, running: _Running, value: Any) -> Event:
        sources = [*running.returned]
        for name in running.reads:
            held = running.names.get(name)
            known = self.made.get((frame, name)) or self.by_id.get(id(held), (None, None))[1]
            if known is not None:
                sources.append(known)
        code = frame.f_code
        event = Event(frame, code.co_filename, running.line, code.co_name, running.statement, sources)
        event.operations, event.names, event.value = list(running.operations), running.names, value
        self.by_id[id(value)] = (value, event)  # the value is kept, so that its id stays its own
        return event

    def note(self, operation: Callable[[int], Operation]) -> None:
        """Keep an operation for the statement of the innermost user frame that runs."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            running = self.running.get(frame)
            if running is not None:
                running.operations.append(operation(frame.f_lasti))
                return
            frame = frame.f_back

    def on_numpy_error(self, text: str, flag: int) -> None:
        """NumPy's floating-point events while a user's line runs."""
        if text != "underflow" and self.record:
            self.note(lambda place: Operation("", text, place))


def find_origin(event: Event) -> Event:
    """Follow the sources back to the statement that had none: what it read was finite, or came from storage."""
    seen: set[int] = set()
    while event.sources and id(event) not in seen:
        seen.add(id(event))
        event = event.sources[0]
    return event


def _repeats(statement: ast.stmt, frame: FrameType, running: _Running) -> bool:
    """A loop's header runs again in each turn; any other statement only comes back to its first line."""
    is_loop = isinstance(statement, (ast.For, ast.While))
    return is_loop and frame.f_lineno == running.line and frame.f_lineno == statement.lineno


def _is_plain_return(statement: ast.stmt | None) -> bool:
    return isinstance(statement, ast.Return) and not any(
        isinstance(node, ast.BinOp | ast.Call) for node in ast.walk(statement)
    )


def _stored_names(statement: ast.stmt | None) -> set[str]:
    if statement is None:
        return set()
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _copies(values: dict[str, Any]) -> dict[str, Any]:
    made = {}
    for name, value in values.items():
        if is_torch_tensor(value) and value.numel() <= _COPY_LIMIT:
            made[name] = value.detach().clone()
        elif type(value).__name__ == "ndarray" and value.size <= _COPY_LIMIT:
            made[name] = value.copy()
    return made


def node_at(event: Event, place: int) -> ast.AST | None:
    """Return the sub-expression that the frame's code was at: instruction offset to columns to syntax tree."""
    positions = list(event.frame.f_code.co_positions())
    if event.statement is None or not 0 <= place // 2 < len(positions):
        return None
    line, end_line, column, end_column = positions[place // 2]
    for node in ast.walk(event.statement):
        where = [getattr(node, name, None) for name in ("lineno", "end_lineno", "col_offset", "end_col_offset")]
        if where == [line, end_line, column, end_column] and op_name(node) is not None:
            return node
    return None


@dataclass(frozen=True)
class DataOrigin:
    """The operation, in the user's data code, that turned finite values into a NaN or an infinity.

    `stored`: no operation did, the value is in what the dataset reads (`op` is "data"); the line is the one that
    read it, None where no line of the user's did. `op` is "constant" where the code itself writes a NaN. `event` is
    NumPy's word for what happened ("divide by zero", "invalid value", "overflow"). `expression` is the part of the
    line. `reproduced`: the sample was fetched with the same random numbers, or draws none. `position` is the place in
    the batch, None where the collate function made the value.
    """

    op: str
    file: str | None
    line: int | None
    function: str | None
    code: str | None
    inputs: tuple[TensorSummary, ...] = ()
    output: TensorSummary | None = None
    stored: bool = False
    event: str | None = None
    reproduced: bool = True
    expression: str | None = None
    position: int | None = None


@contextlib.contextmanager
def alone(streams: AbstractContextManager[None]) -> Iterator[None]:
    """What runs a second time is not heard, warns nobody; `streams` puts the random streams back."""
    disabled = logging.root.manager.disable
    nowhere = io.StringIO()
    quiet = contextlib.ExitStack()
    quiet.callback(logging.disable, disabled)
    for context in (
        streams,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        quiet.enter_context(context)
    with quiet:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        yield


def run(watch: LineWatch, function: Callable[[], Any]) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return watch.call(function)
    with numpy.errstate(divide="call", over="call", invalid="call", under="ignore", call=watch.on_numpy_error):
        return watch.call(function)


def data_origin(event: Event | None, value: Any, exact: bool, position: int | None) -> DataOrigin:
    if event is None:  # no line of the user's code: a library's dataset reads its tensors
        output = _summary(_bad_part(value))
        return DataOrigin(
            "data", None, None, None, None, output=output, stored=True, reproduced=exact, position=position
        )
    event = find_origin(event)
    culprit = _culprit(event)
    node: ast.AST | None = culprit.node if culprit else None
    operation = None
    if culprit is not None:
        op, stored = culprit.op, culprit.kind == "stored"
        inputs, output = culprit.operands, culprit.value
        operation = next((seen for seen in event.operations if seen.event and node_at(event, seen.place) is node), None)
        operation = operation or next((seen for seen in event.operations if seen.event), None)
    else:
        operation = next(iter(event.operations), None)
        op, node = _named(event, operation)
        stored = op == "data"
        inputs = operation.inputs if operation else ()
        output = operation.output if operation and operation.output is not None else _bad_part(event.value)
    line = getattr(node, "lineno", None) or event.line
    return DataOrigin(
        op=op,
        file=event.file,
        line=line,
        function=event.function,
        code=linecache.getline(event.file, line).strip() or None,
        inputs=tuple(summary for value in inputs if (summary := _summary(value))),
        output=_summary(_bad_part(output)),
        stored=stored,
        event=operation.event if operation and not stored else None,
        reproduced=exact,
        expression=ast.unparse(node) if node is not None else None,
        position=position,
    )


def _culprit(event: Event) -> Culprit | None:
    if event.statement is None:
        return None
    numpy = sys.modules.get("numpy")
    with numpy.errstate(all="ignore") if numpy is not None else contextlib.nullcontext():
        for part in header(event.statement):
            culprit = find_culprit(part, event.names)
            if culprit is not None:
                return culprit
    return None


def _named(event: Event, operation: Operation | None) -> tuple[str, ast.AST | None]:
    """Name the operation of a statement that could not be evaluated again, by what was seen while it ran."""
    if operation is None:
        return "data", None
    node = node_at(event, operation.place)
    if operation.op:
        return operation.op, node
    name = op_name(node) if node is not None else None
    if name is not None and (isinstance(node, ast.BinOp) or name in _DOMAIN):
        return name, node
    return ("divide" if operation.event == "divide by zero" else name or str(operation.event)), node


_DOMAIN = (
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "exp",
    "expm1",
    "power",
    "mean",
    "std",
    "var",
    "arccos",
    "arcsin",
    "astype",
)


def _bad_part(value: Any) -> Any:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((_bad_part(part) for part in value if is_bad(part)), None)
    return value


def _summary(value: Any) -> TensorSummary | None:
    if isinstance(value, (bool, str, slice, type(None))):
        return None
    if is_torch_tensor(value):
        from whynan.adapters.torch import opfacts

        known = opfacts.summarize(value, role="batch")
        return None if "unread" in known.extra else known
    array = to_numpy(value)
    return None if array is None else summarize(array, role="batch")
