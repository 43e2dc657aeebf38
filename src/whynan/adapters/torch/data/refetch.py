"""Fetches a sample once more and finds the line of the user's code that made it non-finite."""

import ast
import contextlib
import inspect
import io
import linecache
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import default_collate

from whynan.adapters.torch.data import streams
from whynan.adapters.torch.data.evaluate import Culprit, find_culprit, op_name
from whynan.adapters.torch.data.lines import Event, LineWatch, Operation, OutOfTime, find_origin, node_at
from whynan.adapters.torch.data.loader import BatchOrigin
from whynan.adapters.torch.data.statements import header
from whynan.adapters.torch.data.summary import summarize
from whynan.adapters.torch.data.values import is_bad
from whynan.records.tensor import TensorSummary

_N_TRIES = 12
"""Fetches of a sample with random transforms whose random numbers are not known: some of them may meet the defect."""


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


def find_data_origin(
    origin: BatchOrigin, position: int | None, is_user_file: Callable[[str], bool], budget_s: float = 10.0
) -> DataOrigin | None:
    """Return where sample `position` of a batch became non-finite, None where it is finite or cannot be fetched.

    With `position` None all samples are looked at, in order. The random streams are left as they were found, what
    the user's code prints goes nowhere, and no exception of it comes out. A stream is read again from its beginning,
    where its `__iter__` is a generator, which starts afresh.
    """
    try:
        with _alone():
            if origin.places is not None and inspect.isgeneratorfunction(type(origin.dataset).__iter__):
                return _search_stream(origin, origin.places, position, is_user_file, time.monotonic() + budget_s)
            if origin.loader_kind == "iterable" or not origin.indices:
                return None
            return _search(origin, position, is_user_file, time.monotonic() + budget_s)
    except (OutOfTime, Exception):
        return None


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """What runs a second time is not heard, warns nobody, and draws from nobody's random stream."""
    disabled = logging.root.manager.disable
    nowhere = io.StringIO()
    quiet = contextlib.ExitStack()
    quiet.callback(logging.disable, disabled)
    for context in (
        streams.preserved(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        quiet.enter_context(context)
    with quiet:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        yield


def _search(
    origin: BatchOrigin, position: int | None, is_user_file: Callable[[str], bool], deadline: float
) -> DataOrigin | None:
    _start_streams(origin)
    samples = []
    all_exact = True
    for place, index in enumerate(origin.indices):
        wanted = position is None or place == position
        for _ in range(_N_TRIES if wanted and origin.rng_before is None else 1):
            before = streams.take()
            watch = LineWatch(is_user_file, deadline, record=wanted)
            sample = _run(watch, lambda index=index: _fetch(origin.dataset, index))  # type: ignore[misc]
            exact = origin.rng_before is not None or not _drew(before)
            if wanted and is_bad(sample):
                return _data_origin(watch.result_event, sample, exact, place)
            if exact:  # it would come out the same again
                break
        all_exact = all_exact and exact
        samples.append(sample)
    return _collated(origin, samples, is_user_file, deadline, all_exact)


def _search_stream(
    origin: BatchOrigin, places: range, position: int | None, is_user_file: Callable[[str], bool], deadline: float
) -> DataOrigin | None:
    items = iter(origin.dataset)
    for _ in range(places.start):
        next(items)
        if time.monotonic() > deadline:
            return None
    for place in range(len(places)):
        wanted = position is None or place == position
        watch = LineWatch(is_user_file, deadline, record=wanted)
        sample = _run(watch, lambda: next(items))
        if wanted and is_bad(sample):
            return _data_origin(watch.result_event, sample, True, place)
    return None


def _collated(
    origin: BatchOrigin, samples: list[Any], is_user_file: Callable[[str], bool], deadline: float, exact: bool
) -> DataOrigin | None:
    """Trace the collate function over finite samples: means and deviations over the batch are taken there."""
    if origin.collate_fn is default_collate or is_bad(samples):
        return None
    watch = LineWatch(is_user_file, deadline)
    data = samples[0] if origin.loader_kind == "single" else samples
    batch = _run(watch, lambda: origin.collate_fn(data))
    return _data_origin(watch.result_event, batch, exact, None) if is_bad(batch) else None


def _start_streams(origin: BatchOrigin) -> None:
    """Worker processes have streams of their own; their seed is known, how far they were drawn from is not."""
    if origin.rng_before is not None:
        streams.put_back(origin.rng_before)
    elif origin.base_seed is not None and origin.worker is not None:
        streams.seed_as_worker(origin.base_seed, origin.worker)


def _fetch(dataset: Any, index: Any) -> Any:
    if hasattr(dataset, "__getitem__"):
        return dataset[index]
    return dataset.__getitems__([index])[0]


def _run(watch: LineWatch, function: Callable[[], Any]) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return watch.call(function)
    with numpy.errstate(divide="call", over="call", invalid="call", under="ignore", call=watch.on_numpy_error):
        return watch.call(function)


def _drew(before: streams.RandomStates) -> bool:
    """Tell whether a random stream has moved since `before`."""
    now = streams.take()
    if now.python != before.python or not bool((now.torch == before.torch).all()):
        return True
    if now.numpy is None or before.numpy is None:
        return False
    return bool((now.numpy[1] != before.numpy[1]).any()) or now.numpy[2:] != before.numpy[2:]


def _data_origin(event: Event | None, value: Any, exact: bool, position: int | None) -> DataOrigin:
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
    """Return the first bad tensor, array or number inside a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((_bad_part(part) for part in value if is_bad(part)), None)
    return value


def _summary(value: Any) -> TensorSummary | None:
    if isinstance(value, (bool, str, slice, type(None))):
        return None
    summary = summarize(value, role="batch")
    return None if "unread" in summary.extra else summary
