"""Fetches a sample once more, and tells which line made it non-finite, which of the drawn batches is in hand."""

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.data import default_collate

from whynan.adapters.common.arrays import is_bad
from whynan.adapters.common.data import lines
from whynan.adapters.common.data.lines import DataOrigin, Operation, OutOfTime, alone, data_origin, run
from whynan.adapters.torch.data import loader
from whynan.adapters.torch.data.loader import BatchOrigin


class LineWatch(lines.LineWatch):
    """A line watch that notes torch functions too."""

    def operations(self) -> AbstractContextManager[Any]:
        return _Operations(self)

    def unseen(self) -> AbstractContextManager[Any]:
        return torch._C.DisableTorchFunction()  # type: ignore[no-any-return]


class _Operations(TorchFunctionMode):  # type: ignore[misc]
    def __init__(self, watch: LineWatch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if self.watch.record and isinstance(output, torch.Tensor) and is_bad(output):
            inputs = [value for value in args if isinstance(value, (torch.Tensor, float, int))]
            if not is_bad(list(args)):
                name = _plain_name(function)
                self.watch.note(lambda place: Operation(name, None, place, tuple(inputs), output))
        return output


def _plain_name(function: Any) -> str:
    name = getattr(function, "__name__", str(function)).strip("_")
    names = {"truediv": "divide", "rtruediv": "divide", "div": "divide", "itruediv": "divide", "sub": "subtract"}
    return names.get(name, name.removesuffix("_"))


_N_TRIES = 12
"""Fetches of a sample with random transforms whose random numbers are not known: some of them may meet the defect."""


def find_data_origin(
    origin: BatchOrigin, position: int | None, is_user_file: Callable[[str], bool], budget_s: float = 10.0
) -> DataOrigin | None:
    """Return where sample `position` of a batch became non-finite, None where it is finite or cannot be fetched.

    With `position` None all samples are looked at, in order. The random streams are left as they were found, what
    the user's code prints goes nowhere, and no exception of it comes out. A stream is read again from its beginning,
    where its `__iter__` is a generator, which starts afresh.
    """
    try:
        with alone(loader.preserved()):
            if origin.places is not None and inspect.isgeneratorfunction(type(origin.dataset).__iter__):
                return _search_stream(origin, origin.places, position, is_user_file, time.monotonic() + budget_s)
            if origin.loader_kind == "iterable" or not origin.indices:
                return None
            return _search(origin, position, is_user_file, time.monotonic() + budget_s)
    except (OutOfTime, Exception):
        return None


def _search(
    origin: BatchOrigin, position: int | None, is_user_file: Callable[[str], bool], deadline: float
) -> DataOrigin | None:
    _start_streams(origin)
    samples = []
    all_exact = True
    for place, index in enumerate(origin.indices):
        wanted = position is None or place == position
        for _ in range(_N_TRIES if wanted and origin.rng_before is None else 1):
            before = loader.take()
            watch = LineWatch(is_user_file, deadline, record=wanted)
            sample = run(watch, lambda index=index: _fetch(origin.dataset, index))  # type: ignore[misc]
            exact = origin.rng_before is not None or not _drew(before)
            if wanted and is_bad(sample):
                return data_origin(watch.result_event, sample, exact, place)
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
        sample = run(watch, lambda: next(items))
        if wanted and is_bad(sample):
            return data_origin(watch.result_event, sample, True, place)
    return None


def _collated(
    origin: BatchOrigin, samples: list[Any], is_user_file: Callable[[str], bool], deadline: float, exact: bool
) -> DataOrigin | None:
    """Trace the collate function over finite samples: means and deviations over the batch are taken there."""
    is_listed = origin.loader_kind == "single" and len(samples) > 1  # the data set itself made the batch
    if origin.collate_fn is default_collate or is_listed or is_bad(samples):
        return None
    watch = LineWatch(is_user_file, deadline)
    data = samples[0] if origin.loader_kind == "single" else samples
    batch = run(watch, lambda: origin.collate_fn(data))
    return data_origin(watch.result_event, batch, exact, None) if is_bad(batch) else None


def _start_streams(origin: BatchOrigin) -> None:
    """Worker processes have streams of their own; their seed is known, how far they were drawn from is not."""
    if origin.rng_before is not None:
        loader.put_back(origin.rng_before)
    elif origin.base_seed is not None and origin.worker is not None:
        loader.seed_as_worker(origin.base_seed, origin.worker)


def _fetch(dataset: Any, index: Any) -> Any:
    if hasattr(dataset, "__getitem__"):
        return dataset[index]
    return dataset.__getitems__([index])[0]


def _drew(before: loader.RandomStates) -> bool:
    now = loader.take()
    if now.python != before.python or not bool((now.torch == before.torch).all()):
        return True
    if now.numpy is None or before.numpy is None:
        return False
    return bool((now.numpy[1] != before.numpy[1]).any()) or now.numpy[2:] != before.numpy[2:]


_AHEAD = ("accelerate", "transformers", "lightning", "pytorch_lightning", "lightning_fabric", "ray.train")
_MOST = 8
"""Batches before the latest that are compared."""


def draws_ahead() -> bool:
    """Whether a package that draws batches before it hands them over has been imported."""
    return any(name in sys.modules for name in _AHEAD)


def matching(batch: Any, size: int | None) -> BatchOrigin | None:
    """Return the origin whose samples, fetched again, are those of `batch`; None where that cannot be told."""
    rows = list(_tensors(batch))
    for back in range(_MOST):
        candidates = [c for c in loader.recent(back) if c.indices and len(c.indices) == size]
        for candidate in candidates:
            if rows and _is_it(candidate, rows):
                return candidate
    return None


def _is_it(origin: BatchOrigin, rows: list[Any]) -> bool:
    """Whether the first and the last sample are found in the batch, each at its own place."""
    try:
        with alone(loader.preserved()):
            _start_streams(origin)
            samples = [_fetch(origin.dataset, index) for index in origin.indices]
    except Exception:
        return False
    compared = 0
    for position, sample in enumerate(samples):
        for part in _tensors(sample):
            if part.numel() == 0:
                continue
            compared += 1
            if not any(_same(part, row, position, len(samples)) for row in rows):
                return False
    return compared > 0


def _same(part: Any, row: Any, position: int, size: int) -> bool:
    if row.dim() == 0 or row.shape[0] != size:
        return False
    one = row[position].detach().reshape(-1).cpu().double()
    flat = part.detach().reshape(-1).cpu().double()
    # A collate function may pad: what the sample has comes first then.
    return bool(len(one) >= len(flat) and torch.allclose(one[: len(flat)], flat, rtol=1e-3, atol=0, equal_nan=True))


def _tensors(value: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        if not value.is_complex():
            yield value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield torch.tensor(float(value))
    elif type(value).__module__ == "numpy" and getattr(value, "dtype", None) is not None and value.dtype.kind in "fiu":
        yield torch.as_tensor(value)
    elif hasattr(value, "items") and depth < 3:
        for item in value.values():
            yield from _tensors(item, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 3:
        numbers = [item for item in value if isinstance(item, (int, float))]
        if value and len(numbers) == len(value):
            yield torch.tensor([float(item) for item in numbers])
        else:
            for item in value:
                yield from _tensors(item, depth + 1)
