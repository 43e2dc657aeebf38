"""Which dataset indices made the current batch: a record of what each DataLoader iterator draws from its sampler.

Only `_BaseDataLoaderIter._next_index` is replaced. It has returned before the dataset is asked, so no frame of ours
stands on the stack while the user's dataset or collate function runs; a user's sampler sees torch's own file, line
and function name in the frame that calls it. Besides: the random streams that data may draw from.
"""

import ast
import contextlib
import itertools
import random
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.data import dataloader as torch_dataloader

LoaderKind = Literal["map", "single", "iterable"]
"""map: batches of indices; single: `batch_size=None`, one index makes an item; iterable: no indices at all."""
_KEPT = 4
"""Records beyond those that prefetching keeps in flight: the current batch and a few before it."""


class RandomStates(NamedTuple):
    """The three states at one moment; `numpy` is None where NumPy had not been imported."""

    python: Any
    numpy: Any
    torch: Any


def take() -> RandomStates:
    """Copy the states; draws nothing. NumPy is not imported by this."""
    numpy_random = sys.modules.get("numpy.random")
    numpy_state = None if numpy_random is None else numpy_random.get_state()
    return RandomStates(random.getstate(), numpy_state, torch.default_generator.get_state())


def put_back(states: RandomStates) -> None:
    random.setstate(states.python)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None and states.numpy is not None:
        numpy_random.set_state(states.numpy)
    torch.default_generator.set_state(states.torch)


def seed_as_worker(base_seed: int, worker_id: int) -> None:
    """Seed the streams as a loader's worker process does when it starts."""
    seed = base_seed + worker_id
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        from torch.utils.data._utils.worker import _generate_state

        numpy_random.seed(_generate_state(base_seed, worker_id))


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    states = take()
    try:
        yield
    finally:
        put_back(states)


@dataclass(frozen=True)
class BatchOrigin:
    """Where one batch came from.

    `indices` are in the order of the batch and empty for an IterableDataset. `rng_before` are the random states at
    the moment before the first sample was fetched, None where worker processes fetched it: there `base_seed` and
    `worker` tell how the process that did so was seeded. `ordinal` counts the batches of the epoch from 0, None where
    workers deliver out of order and nothing says which batch this is.
    """

    dataset: Any
    indices: tuple[Any, ...]
    collate_fn: Any
    rng_before: RandomStates | None
    loader_kind: LoaderKind
    n_workers: int
    ordinal: int | None
    base_seed: int | None = None
    worker: int | None = None
    places: range | None = None
    """Of an IterableDataset that the process reads itself: where in the stream the batch's samples stand, from 0."""
    exhausted: bool = False
    """The iterator has nothing left: its loop is over, unless this is the very batch that the last turn got."""


class _Listed(tuple[Any, ...]):
    """The indices that a sampler gave as a list; a plain tuple may be one key."""


class _Draws:
    """What one iterator has drawn since it was last reset; the deque holds the latest records only."""

    __slots__ = ("ended", "n_drawn", "records", "sampler_id", "tick")

    def __init__(self, iterator: Any) -> None:
        in_flight = iterator._num_workers * (getattr(iterator, "_prefetch_factor", None) or 0)
        self.records: deque[tuple[Any, RandomStates | None]] = deque(maxlen=in_flight + _KEPT)
        self.n_drawn = 0
        self.tick = 0
        self.ended = False
        # Not the object: holding it would keep a user's generator open longer than without us.
        self.sampler_id = id(iterator._sampler_iter)


_draws: weakref.WeakKeyDictionary[Any, _Draws] = weakref.WeakKeyDictionary()
_ticks = itertools.count(1)
_original: Any = None


def install() -> None:
    """Start recording; a second call does nothing."""
    global _original
    if _original is None:
        _original = torch_dataloader._BaseDataLoaderIter._next_index
        torch_dataloader._BaseDataLoaderIter._next_index = _look_alike(_original)


def uninstall() -> None:
    """Put torch's own method back and forget what was recorded."""
    global _original
    if _original is not None:
        torch_dataloader._BaseDataLoaderIter._next_index = _original
        _original = None
        _draws.clear()
        _left_out.clear()


def recent(back: int = 0) -> list[BatchOrigin]:
    """Return the current batch of each live iterator, the one that advanced last first.

    Iterators that have ended come after those that have not: a validation loop that is over says nothing about the
    training batch in hand, although it drew later. `back` asks for the batch that many places before the current one,
    for loops that prefetch.
    """
    found = []
    for ref in list(_draws.keyrefs()):
        iterator = ref()
        draws = None if iterator is None else _draws.get(iterator)
        del iterator  # the count below is of everybody else's references
        if draws is not None:
            origin = _current(ref, draws, back)
            if origin is not None:
                found.append((origin, draws.tick))
    found.sort(key=lambda pair: (pair[0].exhausted, -pair[1]))
    return [origin for origin, _ in found]


def _note(iterator: Any, index: Any) -> Any:
    """Keep one drawn index list, and return it. Runs for every batch: no tensor operation, no import."""
    try:
        if _left_out:
            index = _kept_of(iterator, index)
        draws = _of(iterator)
        in_process = iterator._num_workers == 0
        drawn = _Listed(index) if type(index) is list else index  # a sampler may reuse its list
        draws.records.append((drawn, take() if in_process else None))
        draws.n_drawn += 1
        draws.tick = next(_ticks)
    except Exception:  # a record lost is no reason to end a training run
        pass
    return index


def _note_end(iterator: Any) -> None:
    """Keep that the sampler has nothing left; with workers the batches in flight are still to come."""
    try:
        draws = _of(iterator)
        draws.tick = next(_ticks)
        draws.ended = True
    except Exception:
        pass


def _of(iterator: Any) -> _Draws:
    draws = _draws.get(iterator)
    if draws is None or draws.sampler_id != id(iterator._sampler_iter):  # new, or reset for another epoch
        draws = _draws[iterator] = _Draws(iterator)
    return draws


def _current(ref: Any, draws: _Draws, back: int) -> BatchOrigin | None:
    try:
        n_holders = _n_references(ref) - _N_REFERENCES_OF_ONE_HOLDER + 1
        iterator = ref()
        exhausted = _is_over(iterator, draws, n_holders)
        ordinal = _ordinal(iterator, draws)
        if ordinal is None:
            return _origin(iterator, (), None, None, exhausted)
        ordinal -= back
        place = ordinal - (draws.n_drawn - len(draws.records))
        if not 0 <= place < len(draws.records):
            return None
        drawn, states = draws.records[place]
        if _is_iterable(iterator):
            size = len(drawn) if isinstance(drawn, tuple) else 1
            places = range(ordinal * size, (ordinal + 1) * size) if iterator._num_workers == 0 else None
            return _origin(iterator, (), states, ordinal, exhausted, places)
        # Without batches of its own a loader may be given lists by the sampler: one index makes the whole batch.
        indices = _as_indices(drawn) if iterator._auto_collation or isinstance(drawn, _Listed) else (drawn,)
        return _origin(iterator, indices, states, ordinal, exhausted)
    except Exception:
        return None


def _ordinal(iterator: Any, draws: _Draws) -> int | None:
    """Return which draw made the batch that was yielded last.

    Workers count what they were sent (`_rcvd_idx` is the next to come), which stays right where a worker's exception
    was caught and the loop went on; `_num_yielded` would fall behind.
    """
    if iterator._num_workers == 0:
        return draws.n_drawn - 1
    if not getattr(iterator, "_in_order", True):
        return None
    return int(iterator._rcvd_idx) - 1


def _origin(
    iterator: Any,
    indices: tuple[Any, ...],
    states: Any,
    ordinal: int | None,
    exhausted: bool,
    places: range | None = None,
) -> BatchOrigin:
    kind: LoaderKind = "map" if iterator._auto_collation else "single"
    n_workers = int(iterator._num_workers)
    return BatchOrigin(
        dataset=iterator._dataset,
        indices=indices,
        collate_fn=iterator._collate_fn,
        rng_before=states,
        loader_kind="iterable" if _is_iterable(iterator) else kind,
        n_workers=n_workers,
        ordinal=ordinal,
        base_seed=getattr(iterator, "_base_seed", None),
        worker=ordinal % n_workers if n_workers and ordinal is not None else None,
        places=places,
        exhausted=exhausted,
    )


def _is_iterable(iterator: Any) -> bool:
    return bool(iterator._dataset_kind == torch_dataloader._DatasetKind.Iterable)


def _is_over(iterator: Any, draws: _Draws, n_holders: int) -> bool:
    if iterator._num_workers == 0:
        # An iterable's end shows only in a draw that yielded nothing: its sampler is endless.
        return draws.ended or (_is_iterable(iterator) and draws.n_drawn > iterator._num_yielded)
    if getattr(iterator, "_shutdown", False):
        return True
    # A persistent iterator never shuts down between epochs; between loops its loader alone holds it.
    return bool(iterator._persistent_workers) and n_holders <= 1


def _n_references(ref: Any) -> int:
    return sys.getrefcount(ref())


class _Held:
    """Something with exactly one holder, to learn how many references counting itself adds."""


_held = _Held()
_N_REFERENCES_OF_ONE_HOLDER = _n_references(weakref.ref(_held))


def _as_indices(drawn: Any) -> tuple[Any, ...]:
    """Return a batch's indices as Python numbers where they are numbers; keys of any other kind stay as they are."""
    if hasattr(drawn, "tolist"):
        drawn = drawn.tolist()
    if isinstance(drawn, slice):
        return (drawn,)
    return tuple(index.item() if hasattr(index, "item") and not getattr(index, "ndim", 0) else index for index in drawn)


def replace_current(origin: BatchOrigin, indices: tuple[Any, ...]) -> None:
    """Take other indices for those of the batch in hand: the batch was replaced by one of these samples."""
    for ref in list(_draws.keyrefs()):
        iterator = ref()
        if iterator is None or iterator._dataset is not origin.dataset:
            continue
        draws = _draws.get(iterator)
        if draws is not None and draws.records:
            ordinal = _ordinal(iterator, draws)
            place = -1 if ordinal is None else ordinal - (draws.n_drawn - len(draws.records))
            draws.records[place] = (indices, draws.records[place][1])


_left_out: dict[int, tuple[Any, set[Any]]] = {}


def leave_out(origin: BatchOrigin, samples: Any) -> None:
    """Leave samples out of all batches that loaders draw of this dataset from now on."""
    _, indices = _left_out.setdefault(id(origin.dataset), (origin.dataset, set()))
    for sample in samples:
        if sample.position is not None and sample.position < len(origin.indices):
            indices.add(origin.indices[sample.position])


def _kept_of(iterator: Any, index: Any) -> Any:
    """Return the drawn indices without those that are left out; a batch of none but those stays as it is."""
    known = _left_out.get(id(iterator._dataset))
    if known is None or known[0] is not iterator._dataset or not isinstance(index, (list, tuple)):
        return index
    kept = [one for one in index if one not in known[1]]
    return kept if kept and len(kept) < len(index) else index


_SOURCE = """
def _next_index(self):
    try:
        index = next(self._sampler_iter)
    except StopIteration:
        __whynan_note_end__(self)
        raise
    index = __whynan_note__(self, index)
    return index
"""


def _look_alike(original: Any) -> Any:
    """Compile the replacement so that its frame is named, filed and numbered like the method that it replaces."""
    code = original.__code__
    tree = ast.parse(_SOURCE)
    places = [place for place in code.co_positions() if place[0] and place[0] > code.co_firstlineno]
    line, _, column, end_column = max(places, key=lambda place: place[3] or 0, default=(code.co_firstlineno,) * 4)
    for node in _nodes(tree):
        node.lineno = node.end_lineno = line
        node.col_offset, node.end_col_offset = column or 0, end_column or 0
    tree.body[0].lineno = code.co_firstlineno
    namespace: dict[str, Any] = {}
    exec(compile(tree, code.co_filename, "exec", dont_inherit=True), namespace)
    made = namespace["_next_index"].__code__.replace(co_qualname=code.co_qualname)
    replacement = FunctionType(made, {**_globals(original), "__whynan_note__": _note, "__whynan_note_end__": _note_end})
    replacement.__qualname__ = original.__qualname__
    replacement.__module__ = original.__module__
    return replacement


def _nodes(tree: ast.AST) -> Iterator[Any]:
    return (node for node in ast.walk(tree) if hasattr(node, "lineno"))


def _globals(original: Any) -> dict[str, Any]:
    """The frame's `__name__` and loader are what `warnings` and `inspect` ask for."""
    names = ("__name__", "__file__", "__loader__", "__spec__", "__package__", "__builtins__")
    return {name: original.__globals__[name] for name in names if name in original.__globals__}
