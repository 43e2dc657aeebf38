"""Data sets read a second time, to find the line of the user's code that made a sample non-finite.

The values of the guilty sample are looked for first, without a trace; the call that gave them then runs under a line
watch. A data set that gives other values the second time (random augmentations) is believed only where a single one
of its items is bad.
"""

import gc
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from operator import getitem
from types import CellType, FunctionType, GeneratorType
from typing import Any

from whynan.adapters.common.arrays import Part, find_index, is_array, is_bad, parts_of
from whynan.adapters.common.data.lines import DataOrigin, LineWatch, OutOfTime, alone, data_origin, run
from whynan.adapters.common.explain import Step
from whynan.adapters.common.namespaces import user_arrays, user_values
from whynan.adapters.common.positions import short_path
from whynan.launch.host import is_user_file
from whynan.records import Op, SourceLine
from whynan.snapshot import GlobalRandomState, ObjectsSnapshot

_BUDGET_S = 8.0
_MAX_ITEMS = 50_000
_NUMBERS = re.compile(r"ind|idx|rows|order|perm|pick|chosen|(^|_)sel(?!f)|(^|_)ids?$", re.IGNORECASE)
"""How scripts call the numbers of the rows that they take into a batch."""
Call = Callable[[], Any]


@dataclass(frozen=True)
class Reader:
    """A data set that can be read again: `calls()` gives functions, each of which returns the next item.

    `roots` are the objects that reading may change. `gives_samples`: the items are samples in the order of their index.
    `index_of` gives the index of the sample that call number n reads, where that is known in another way.
    """

    calls: Callable[[], Iterator[Call]]
    roots: tuple[Any, ...] = ()
    gives_samples: bool = False
    index_of: Callable[[int], int | None] | None = None


def of_users(given: Iterable[Any] = ()) -> Iterator[Reader]:
    """Yield readers of what is given or stands in the user's names and is a data set of a class of theirs (`__len__`
    and `__getitem__`), and of their generators that are under way."""
    values = {id(value): value for value in [*given, *user_values()]}
    for value in values.values():
        kind = type(value)
        is_dataset = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
        if is_dataset and is_user_file(_file_of(kind)):
            yield Reader(partial(_items, value), (value,))
    yield from running_generators()


def _items(dataset: Any) -> Iterator[Call]:
    return (partial(getitem, dataset, i) for i in range(len(dataset)))


def repeated(make: Callable[[], Iterable[Any]], gives_samples: bool = False, roots: tuple[Any, ...] = ()) -> Reader:
    """Return a reader of what can be iterated anew."""

    def calls() -> Iterator[Call]:
        items = iter(make())
        while True:
            yield lambda: next(items)

    return Reader(calls, (*roots, make), gives_samples)


def running_generators() -> Iterator[Reader]:
    """Yield readers of the generators of the user's that are under way: their functions called again."""
    for value in gc.get_objects():
        if type(value) is not GeneratorType or value.gi_frame is None:
            continue
        if value.gi_code.co_name.startswith("<") or not is_user_file(value.gi_code.co_filename):
            continue
        made = _function_of(value)
        if made is not None:
            yield repeated(made, roots=tuple(value.gi_frame.f_locals.values()))


def _function_of(generator: Any) -> Callable[[], Any] | None:
    """Return a function that makes the generator anew; None where an argument is no longer what it was."""
    code, values = generator.gi_code, generator.gi_frame.f_locals
    n_parameters = code.co_argcount + code.co_kwonlyargcount
    parameters = code.co_varnames[:n_parameters]
    if code.co_flags & 0x0C or any(name not in values for name in parameters):  # *args, **kwargs
        return None
    if _assigns(code, set(parameters)) or any(name not in values for name in code.co_freevars):
        return None
    cells = tuple(CellType(values[name]) for name in code.co_freevars)
    function = FunctionType(code, generator.gi_frame.f_globals, code.co_name, None, cells)
    first, named = parameters[: code.co_argcount], parameters[code.co_argcount :]
    return partial(function, *(values[name] for name in first), **{name: values[name] for name in named})


def _assigns(code: Any, names: set[str]) -> bool:
    import dis

    return any(i.opname in ("STORE_FAST", "STORE_DEREF") and i.argval in names for i in dis.get_instructions(code))


@dataclass(frozen=True)
class Line:
    """Where data code made a bad value, and the index of its sample in the data set where it could be told."""

    op: Op | None
    index: int | None


def look_in_data(step: Step, readers: Callable[[], Iterable[Reader]], deadline: float) -> None:
    """Where a step's bad value came with its batch, find the line of the data set's own code that made it."""
    found = step.graph.slice(step.starts) if step.graph is not None else None
    if found is None or found.leaf is None or found.leaf.summary.role not in ("batch", "target"):
        return
    position = step.samples[0].position if step.samples else None
    line = line_in(readers, step.parts, position, deadline)
    if line is None:
        return
    step.data = line.op
    if line.index is not None and len(step.samples) == 1 and step.samples[0].index is None:
        step.samples = (replace(step.samples[0], index=line.index),)


def line_in(
    readers: Callable[[], Iterable[Reader]],
    parts: Sequence[Part],
    position: int | None,
    deadline: float,
    watch: type[LineWatch] = LineWatch,
) -> Line | None:
    """Read data sets again until one gives the bad row of a batch; None where none does."""
    wanted = _wanted(parts, position)
    deadline = min(deadline, time.monotonic() + _BUDGET_S)
    best: Line | None = None
    try:
        for reader in readers() if wanted else ():
            with alone(_as_before(reader.roots)):
                number = _find(reader, wanted, deadline)
            if number is None:
                continue
            with alone(_as_before(reader.roots)):
                origin, index, is_row = _traced(reader, number, wanted, watch(is_user_file, deadline))
            if reader.index_of is not None:
                index = reader.index_of(number)
            elif reader.gives_samples and index is None and is_row:
                index = number
            op = _op(origin) if origin is not None and not origin.stored and origin.line is not None else None
            best = Line(op, index) if best is None or op is not None else best
            if op is not None:
                break
    except (OutOfTime, Exception):
        pass  # code of the user's that can't be run a second time
    return best


def _op(origin: DataOrigin) -> Op:
    file = short_path(origin.file) if origin.file else None
    source = SourceLine(file, origin.line, origin.function, origin.code)
    return Op(origin.op, origin.event or "data", "data", source, None, None, origin.inputs, origin.output)


@contextmanager
def _as_before(roots: Sequence[Any]) -> Iterator[None]:
    """Put the random streams back, global ones and those that the objects hold, and the objects' attributes."""
    streams = GlobalRandomState()
    spaces = [space for root in roots if (space := _globals_of(root)) is not None]
    generators = [value for space in spaces for value in space.values()]
    objects = ObjectsSnapshot([*roots, *generators], lambda kind: is_user_file(_file_of(kind)))
    try:
        yield
    finally:
        objects.restore()
        streams.restore()


def _globals_of(root: Any) -> dict[str, Any] | None:
    names: dict[str, Any] | None = getattr(getattr(root, "func", root), "__globals__", None)
    if names is None:
        names = vars(sys.modules.get(type(root).__module__, sys.modules["builtins"]))
    return names if is_user_file(names.get("__file__") or "") else None


def _file_of(kind: type) -> str:
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or ""


def _wanted(parts: Sequence[Part], position: int | None) -> list[Any]:
    rows = []
    for part in parts:
        if not part.array.ndim or not is_bad(part.array):
            continue
        if position is not None and position < len(part.array) and is_bad(part.array[position]):
            rows.append(part.array[position])
        else:
            rows.append(next((row for row in part.array if is_bad(row)), part.array))
    return rows


def _find(reader: Reader, wanted: list[Any], deadline: float) -> int | None:
    """Return the number of the call that gives the wanted row, else of the only one that gives anything bad."""
    bad = []
    for number, call in enumerate(reader.calls()):
        if number >= _MAX_ITEMS or time.monotonic() > deadline:
            return None
        try:
            item = call()
        except (StopIteration, IndexError):
            break
        arrays = [part.array for part in parts_of([("item", _as_parts(item))])]
        if not any(is_bad(array) for array in arrays):
            continue
        if any(_holds(array, row) for array in arrays for row in wanted):
            return number
        bad.append(number)
    return bad[0] if len(bad) == 1 else None


def _as_parts(item: Any) -> Any:
    """A number of Python's is an array of one element."""
    if isinstance(item, (list, tuple)):
        return [_as_parts(part) for part in item]
    if isinstance(item, float):
        return sys.modules["numpy"].asarray(item)
    return item


def _holds(array: Any, row: Any) -> bool:
    """Whether an item is the row, or has it among its own, NaN equal to NaN."""
    return bool(_places(array, row).any())


def _places(array: Any, row: Any) -> Any:
    """Return where an item has the row: a flag for each of its own rows, or one where the item is the row itself."""
    np = sys.modules["numpy"]
    if array.shape != row.shape and array.shape[1:] != row.shape:
        return np.zeros(0, bool)
    with np.errstate(all="ignore"):
        near = np.isclose(array.astype(row.dtype), row, rtol=1e-6, atol=0, equal_nan=True)
    return near.reshape(1 if array.shape == row.shape else len(array), -1).all(axis=1)


def _traced(
    reader: Reader, number: int, wanted: list[Any], watch: LineWatch
) -> tuple[DataOrigin | None, int | None, bool]:
    """Return the origin in the call of that number, the row's index by what the code that made it holds, and whether
    what the call gave is the row itself, and no batch."""
    for current, call in enumerate(reader.calls()):
        if current < number:
            call()
            continue
        item = run(watch, call)
        event = watch.result_event
        arrays = [part.array for part in parts_of([("item", _as_parts(item))])]
        is_row = any(a.shape == row.shape and _holds(a, row) for a in arrays for row in wanted)
        if not is_bad(item) or event is None:
            return None, None, is_row
        hits = [_places(array, row) for array in arrays for row in wanted if array.shape[1:] == row.shape]
        places = {int(hit.argmax()) for hit in hits if hit.sum() == 1}
        sizes = {len(array) for array in arrays if array.ndim}
        index = _index_in(event.frame.f_locals, places.pop(), sizes.pop()) if len(places) == len(sizes) == 1 else None
        return data_origin(event, item, True, None), index, is_row
    return None, None, False


def _index_in(names: dict[str, Any], position: int, size: int) -> int | None:
    """Return the index of a batch's row by what the code that made the batch still holds: the rows before they were
    changed, found among arrays of the script's or of its object, or the numbers of the rows."""
    held = [(name, value) for name, value in names.items() if is_array(value) and len(value) == size]
    own = [value for value in getattr(names.get("self"), "__dict__", {}).values() if is_array(value)]
    sources = [value for value in [*own, *user_arrays()] if len(value) != size]
    for name, value in held:
        index = find_index(parts_of([(name, value)]), position, sources) if value.ndim > 1 else None
        if index is not None:
            return index
    numbers = [value for name, value in held if _NUMBERS.search(name) and value.ndim == 1 and value.dtype.kind in "iu"]
    return int(numbers[0][position]) if len(numbers) == 1 else None
