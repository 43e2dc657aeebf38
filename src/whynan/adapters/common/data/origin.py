"""From a watched call of data code to the operation that made its result non-finite."""

import ast
import contextlib
import io
import linecache
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from whynan.adapters.common.arrays import is_bad, is_torch_tensor, summarize, to_numpy
from whynan.adapters.common.data.evaluate import Culprit, find_culprit, header, op_name
from whynan.adapters.common.data.lines import Event, LineWatch, Operation, find_origin, node_at
from whynan.records import TensorSummary


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
