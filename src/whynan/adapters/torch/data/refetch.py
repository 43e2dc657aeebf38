"""Fetches a sample once more and finds the line of the user's code that made it non-finite."""

import inspect
import time
from collections.abc import Callable
from typing import Any

from torch.utils.data import default_collate

from whynan.adapters.common.data.lines import OutOfTime
from whynan.adapters.common.data.origin import DataOrigin, alone, data_origin, run
from whynan.adapters.common.data.values import is_bad
from whynan.adapters.torch.data import streams
from whynan.adapters.torch.data.lines import LineWatch
from whynan.adapters.torch.data.loader import BatchOrigin

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
        with alone(streams.preserved()):
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
            before = streams.take()
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
    if origin.collate_fn is default_collate or is_bad(samples):
        return None
    watch = LineWatch(is_user_file, deadline)
    data = samples[0] if origin.loader_kind == "single" else samples
    batch = run(watch, lambda: origin.collate_fn(data))
    return data_origin(watch.result_event, batch, exact, None) if is_bad(batch) else None


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


def _drew(before: streams.RandomStates) -> bool:
    """Tell whether a random stream has moved since `before`."""
    now = streams.take()
    if now.python != before.python or not bool((now.torch == before.torch).all()):
        return True
    if now.numpy is None or before.numpy is None:
        return False
    return bool((now.numpy[1] != before.numpy[1]).any()) or now.numpy[2:] != before.numpy[2:]
