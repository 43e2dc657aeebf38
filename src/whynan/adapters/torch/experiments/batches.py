"""Experiments on the batch: without the sample, mended, standardised, and the smallest one that still fails."""

import math
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from whynan.adapters.torch import handmade, sources
from whynan.adapters.torch.attempt import Attempt, Outcome
from whynan.adapters.torch.data import loader
from whynan.adapters.torch.data.batch import (
    fields_of,
    is_leaf,
    is_sequence,
    keep_samples,
    rebuild_fields,
    rebuild_sequence,
)
from whynan.adapters.torch.data.facts import are_corners, mended
from whynan.adapters.torch.data.lineage import resolve
from whynan.adapters.torch.experiments.change import Change
from whynan.adapters.torch.samples import SampleSearch
from whynan.diagnosis import facts
from whynan.records import Evidence
from whynan.snapshot import target_names

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan


_LARGE = 10.0


def drop_sample(plan: "Plan", traced: "Outcome", evidence: Evidence, search: SampleSearch) -> Iterator[Change]:
    """Yield the batch with another sample in the guilty one's place; a batch of one is another batch."""
    positions = [s.position for s in search.samples if s.position is not None]
    batch = search.batch
    if positions and batch.size is not None and sources.is_ragged(batch.size):
        anew = list(_collated_anew(plan, search, positions))
        yield from anew
        if anew:
            return
    if positions and batch.size is not None and batch.size > len(positions) and search.size == batch.size:
        healthy = [k for k in range(batch.size) if k not in positions]
        donors = [healthy[i % len(healthy)] for i in range(len(positions))]
        names, drawn = batch.with_replaced(positions, donors)
        words = f"without sample {_named(search)}, another one of the batch in its place"
        yield Change("drop-sample", words, names=names, drawn=drawn or None)
        return
    rows = {s.index for s in search.samples if s.index is not None}
    for gathered in handmade.gathered_batches(plan, traced):
        bad = [k for k, row in enumerate(gathered.rows) if row in rows]
        if bad and len(set(gathered.rows)) > len(bad):
            words = f"without sample {_named(search)}, another row of the data in its place"
            yield Change("drop-sample", words, gathered.without(bad))
            return
    if search.samples:
        yield from _other_batch(plan, search)


def _named(search: SampleSearch) -> str:
    first = search.samples[0]
    return str(first.index) if first.index is not None else f"at position {first.position} of the batch"


def _collated_anew(plan: "Plan", search: SampleSearch, positions: list[int]) -> Iterator[Change]:
    """The batch joins its samples, as graphs are: they are fetched again, another one for each guilty one."""
    for origin in loader.recent():
        indices = list(origin.indices)
        if origin.loader_kind != "map" or not max(positions) < len(indices) > len(positions):
            continue
        found = {resolve(origin.dataset, indices[position]).index for position in positions}
        if found != {s.index for s in search.samples if s.position is not None}:
            continue
        donor = next(index for place, index in enumerate(indices) if place not in positions)
        kept = [donor if place in positions else index for place, index in enumerate(indices)]
        with loader.preserved():
            made = origin.collate_fn([origin.dataset[index] for index in kept])
        names = _as_bound(plan, search, made)
        if names:
            words = f"without sample {_named(search)}, another one in its place and the batch collated anew"
            yield Change("drop-sample", words, names=names)
        return


def _as_bound(plan: "Plan", search: SampleSearch, made: Any) -> dict[str, Any]:
    """Return a batch by the names that the loop binds; empty where it does not fit them."""
    targets = [name for name in target_names(plan.target.site) if name in search.batch.names]
    if len(targets) == 1:
        return {targets[0]: made}
    is_alike = isinstance(made, (list, tuple)) and len(made) == len(targets)
    return dict(zip(targets, made)) if is_alike else {}


def _other_batch(plan: "Plan", search: SampleSearch) -> Iterator[Change]:
    """The batch is one sample: the one before it stands in."""
    for window in plan.host.loops.windows.of(plan.target):
        if len(window.items) > 1 and window.items[-2].is_unchanged():
            item = window.items[-2]
            words = f"without sample {_named(search)}, the batch before it in its place"
            yield Change("drop-sample", words, names=dict(item.names), drawn=list(item.drawn) or None)
            return
    origin = sources.batch_origin(plan, search.size)
    if origin is None or len(origin.indices) != 1 or len(search.batch.names) < 1:
        return
    other = next((k for k in range(len(origin.dataset)) if k not in origin.indices), None)
    if other is None:
        return
    item = origin.dataset[other]
    made = origin.collate_fn([item]) if origin.loader_kind == "map" else origin.collate_fn(item)
    names = _as_bound(plan, search, made)
    if names:
        words = f"without sample {_named(search)}, sample {other} in its place"
        yield Change("drop-sample", words, names=names)


def _mapped(search: SampleSearch, change: Callable[[str, Any], Any]) -> tuple[dict[str, Any], list[Any] | None, int]:
    """Return the batch with every tensor and array of it passed through `change`, and how many it changed."""
    n_changed = 0

    def of(value: Any, name: str) -> Any:
        def leaf(part: Any) -> Any:
            nonlocal n_changed
            made = change(name, part)
            n_changed += made is not part
            return made

        fields = fields_of(value)
        if fields is not None and not is_leaf(value) and not is_sequence(value):
            return rebuild_fields(value, [of(part, f"{name}.{key}") for key, part in fields])
        if is_sequence(value):
            return rebuild_sequence(value, [of(part, f"{name}[{k}]") for k, part in enumerate(value)])
        return leaf(value) if is_leaf(value) else value

    names = {name: of(value, name) for name, value in search.batch.names.items()}
    drawn = [of(value, "batch") for value in search.batch.drawn]
    return names, drawn or None, n_changed


def fix_labels(plan: "Plan", traced: "Outcome", evidence: Evidence, search: SampleSearch) -> Iterator[Change]:
    """Yield boxes with an area, known numbers for missing targets, targets within their range."""
    if evidence.bad_leaf is not None and evidence.bad_leaf.tensor.role == "batch":
        return  # it is the input that is bad, and a target mended would be beside the point
    for words, change in (
        ("boxes without area made one pixel large", _Boxes(search)),
        ("non-finite targets replaced by the mean of the others", partial(_known, evidence.bad_leaf)),
        ("negative targets set to 0", _at_least_zero),
        ("targets kept within 0 and 1", _unit),
    ):
        try:
            names, drawn, n_changed = _mapped(search, change)
        except Exception:
            continue
        if n_changed:
            yield Change("fix-labels", words, names=names, drawn=drawn)
        elif evidence.bad_leaf is None or evidence.bad_leaf.tensor.role == "target":
            table = _Repaired(plan, traced, change)
            if table.tables:
                yield Change("fix-labels", words, table)
    if (evidence.loss_function or "").startswith("binary_cross_entropy"):
        yield Change("fix-labels", f"{words}, from the first step on", UnitTargets(), scope="start")


class UnitTargets(TorchFunctionMode):  # type: ignore[misc]
    """While entered, the binary cross entropies of the framework get targets within 0 and 1."""

    n_applied = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "").startswith("binary_cross_entropy"):
            self.n_applied += 1
            if len(args) > 1:
                args = (args[0], args[1].clamp(0, 1), *args[2:])
            else:
                kwargs["target"] = kwargs["target"].clamp(0, 1)
        return func(*args, **kwargs)


class _Repaired:
    """While entered, the tables that batches are gathered from are repaired."""

    def __init__(self, plan: "Plan", traced: "Outcome", change: Callable[[str, Any], Any]) -> None:
        self.tables: list[tuple[Any, Any]] = []
        batch = next(iter(handmade.gathered_batches(plan, traced)), None)
        for table in batch.tables if batch is not None else ():
            plain = table.data if isinstance(table, torch.Tensor) else table
            made = change("table", plain)
            if made is not plain:
                self.tables.append((plain, made))
        self._saved: list[Any] = []

    def __enter__(self) -> None:
        self._saved = [plain.clone() if isinstance(plain, torch.Tensor) else plain.copy() for plain, _ in self.tables]
        for plain, made in self.tables:
            plain[...] = made

    def __exit__(self, *exception: object) -> None:
        for (plain, _), saved in zip(self.tables, self._saved):
            plain[...] = saved


class FiniteBuffers:
    """While entered, buffers hold 0 where they held Inf or NaN."""

    def __init__(self, buffers: Any) -> None:
        self.bad = [b for b in buffers if b.is_floating_point() and not bool(torch.isfinite(b).all())]
        self._saved: list[Any] = []

    def __enter__(self) -> None:
        self._saved = [buffer.clone() for buffer in self.bad]
        for buffer in self.bad:
            buffer.nan_to_num_(0.0, 0.0, 0.0)

    def __exit__(self, *exception: object) -> None:
        for buffer, saved in zip(self.bad, self._saved):
            buffer.copy_(saved)


def _as_tensor(value: Any) -> Any:
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def _like(result: Any, value: Any) -> Any:
    return result if isinstance(value, torch.Tensor) else result.numpy().astype(value.dtype)


class _Boxes:
    """Mends boxes: floats in four columns, or five with an angle or a score, by the convention of most of the batch."""

    def __init__(self, search: SampleSearch) -> None:
        found: list[Any] = []

        def note(name: str, value: Any) -> Any:
            found.extend(self._rows(name, value))
            return value

        _mapped(search, note)
        self.as_corners = are_corners(torch.cat([rows[:, :4].double() for rows in found])) if found else None

    def _rows(self, name: str, value: Any) -> list[Any]:
        boxes = _as_tensor(value)
        columns = boxes.shape[-1] if boxes.dim() else 0
        fits = columns == 4 or (columns == 5 and "box" in name)
        return [boxes.reshape(-1, columns)] if fits and boxes.is_floating_point() and boxes.numel() else []

    def __call__(self, name: str, value: Any) -> Any:
        for rows in self._rows(name, value):
            as_corners = are_corners(rows[:, :4]) if self.as_corners is None else self.as_corners
            made = torch.cat([mended(rows[:, :4], as_corners), rows[:, 4:]], 1)
            if not torch.allclose(made, rows, 0, 0, equal_nan=True):
                return _like(made.reshape(value.shape), value)
        return value


def _known(leaf: Any, name: str, value: Any) -> Any:
    values = _as_tensor(value)
    is_target = _is_target(name) or (leaf is not None and leaf.tensor.name == name)
    if not values.is_floating_point() or not is_target or bool(torch.isfinite(values).all()):
        return value
    good = values[torch.isfinite(values)]
    fill = float(good.mean()) if good.numel() else 0.0
    return _like(torch.nan_to_num(values, fill, fill, fill), value)


def _at_least_zero(name: str, value: Any) -> Any:
    values = _as_tensor(value)
    if values.dtype == torch.bool or not _is_target(name) or not values.numel() or not bool((values < 0).any()):
        return value
    return _like(values.clamp(min=0), value)


def _unit(name: str, value: Any) -> Any:
    values = _as_tensor(value)
    is_share = _is_target(name) and "box" not in name.lower()  # boxes are measured in pixels
    if not is_share or not values.numel() or bool(((values >= 0) & (values <= 1)).all()):
        return value
    if not values.is_floating_point():  # classes, unless all samples but a few know 0 and 1 only
        rows = ((values == 0) | (values == 1)).reshape(len(values), -1).all(1) if values.dim() else values
        if values.dim() == 0 or int(rows.sum()) * 2 <= len(rows):
            return value
    return _like(values.clamp(0, 1), value)


def _is_target(name: str) -> bool:
    plain = name.lower()
    return plain == "table" or any(word in plain for word in ("y", "target", "label", "mask", "[1]", "box", "gt"))


def guarded_data(
    plan: "Plan", traced: "Outcome", search: SampleSearch, slug: str = "clamp-or-eps", by: str = "an eps where"
) -> Iterator[Change]:
    """Yield the batch as a guard where it is prepared makes it: 0 where the plain formula gives NaN or Inf."""
    words = f"the non-finite values of the batch 0, as {by} they are made gives"
    names, drawn, n_changed = _mapped(search, _finite)
    if n_changed:
        yield Change(slug, words, names=names, drawn=drawn)
        return
    table = _Repaired(plan, traced, _finite)
    if table.tables:
        yield Change(slug, words, table)


def written_memory(plan: "Plan", traced: "Outcome", evidence: Evidence, search: SampleSearch) -> Iterator[Change]:
    """Yield the batch as it is where its memory was filled first."""
    if facts.is_data(evidence) and any(cause.slug == "uninitialized-memory" for cause in plan.causes()):
        yield from guarded_data(plan, traced, search, "better-init", "zeros in the memory that")


def _finite(name: str, value: Any) -> Any:
    values = _as_tensor(value)
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return value
    return _like(torch.nan_to_num(values, 0.0, 0.0, 0.0), value)


def normalize_inputs(plan: "Plan", traced: "Outcome", evidence: Evidence, search: SampleSearch) -> Iterator[Change]:
    """Yield the batch standardised, in one piece, and what the modules get, from the first step on."""
    words = "inputs and targets standardised"
    try:
        names, drawn, n_changed = _mapped(search, _standardised)
    except Exception:
        n_changed = 0
        names, drawn = {}, None
    if n_changed:
        yield Change("normalize-inputs", words, names=names, drawn=drawn)
    table = _Repaired(plan, traced, _standardised)
    if table.tables:
        yield Change("normalize-inputs", words, table)
        yield Change("normalize-inputs", words, table, scope="start")
    hooks = StandardisedInputs(list(plan.host.known.roots().values()))
    yield Change("normalize-inputs", "what the model gets standardised", hooks)
    hooks = StandardisedInputs(list(plan.host.known.roots().values()))
    yield Change("normalize-inputs", "what the model gets standardised, from the first step on", hooks, scope="start")


def _standardised(name: str, value: Any) -> Any:
    values = _as_tensor(value)
    if not values.is_floating_point() or values.numel() < 2:
        return value
    wide = values.detach().double()
    wide = wide[torch.isfinite(wide)]
    if not wide.numel() or float(wide.abs().max()) <= _LARGE:
        return value
    mean, std = float(wide.mean()), float(wide.std())
    return _like(((values.double() - mean) / (std + 1e-6)).to(values.dtype), value)


class StandardisedInputs:
    """While entered, floating-point inputs of the outermost modules have mean 0 and standard deviation 1."""

    def __init__(self, modules: list[Any]) -> None:
        self.modules = modules
        self.n_applied = 0
        self._handles: list[Any] = []
        self._statistics: dict[tuple[int, int], tuple[float, float]] = {}

    def __enter__(self) -> None:
        self.n_applied = 0
        self._statistics = {}
        self._handles = [module.register_forward_pre_hook(self._hook) for module in self.modules]

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, module: Any, args: Any) -> Any:
        return tuple(self._of(value, (id(module), n)) for n, value in enumerate(args))

    def _of(self, value: Any, key: tuple[int, int]) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.numel() < 2:
            return value
        if value.requires_grad:  # made by another module
            return value
        if key not in self._statistics:
            wide = value.detach().double()
            if not bool(torch.isfinite(wide).all()) or float(wide.abs().max()) <= _LARGE:
                return value
            self._statistics[key] = (float(wide.mean()), float(wide.std()) + 1e-6)
        mean, std = self._statistics[key]
        self.n_applied += 1
        return ((value.double() - mean) / std).to(value.dtype) if math.isfinite(std) else value


_MAX_ATTEMPTS = 12


class Shrinking:
    """Runs the step on ever fewer samples of its batch. `positions` are those of the smallest batch that failed."""

    def __init__(self, plan: "Plan", search: SampleSearch) -> None:
        self.plan = plan
        self.search = search
        self.positions: list[int] | None = None
        self.n_tried = 0

    def attempts(self) -> "Generator[Attempt, None, None]":
        """Yield attempts; a part that fails is halved again, until neither half does."""
        size = self.search.batch.size
        if size is None or size < 2 or not (self.search.batch.names or self.search.batch.drawn):
            return
        guilty = [s.position for s in self.search.samples if s.position is not None and s.position < size]
        current = list(range(size))
        if guilty and (yield from self._fails(guilty)):
            current = guilty
        while len(current) > 1 and self.n_tried < _MAX_ATTEMPTS and not self.plan.is_out_of_time():
            half = len(current) // 2
            for part in (current[:half], current[half:]):
                if (yield from self._fails(part)):
                    current = part
                    break
            else:
                break
        if len(current) < size:
            self.positions = current

    def _fails(self, positions: list[int]) -> "Generator[Attempt, None, bool]":
        """Run the step on these samples alone; return whether it fails as the whole batch did."""
        batch, size = self.search.batch, self.search.batch.size
        try:
            names = {name: keep_samples(value, positions, size) for name, value in batch.names.items()}
            drawn: list[Any] = [keep_samples(value, positions, size) for value in batch.drawn]
        except Exception:
            return False
        self.n_tried += 1
        yield Attempt(traced=False, changed=names, redraws=drawn or None)
        outcome = self.plan.outcome
        pending = self.plan.pending
        return outcome.event is not None and outcome.error is None and outcome.event.what == pending.what

    def note(self) -> str | None:
        if self.positions is None:
            return None
        known = {s.position: s.index for s in self.search.samples}
        if len(self.positions) == 1:
            index = known.get(self.positions[0])
            name = f"sample {index}" if index is not None else f"the sample at position {self.positions[0]}"
            if not known:  # it is one of several that fail
                return f"a batch of {name} alone fails too"
            return f"the smallest batch that fails is {name} alone"
        return f"the smallest batch found that fails holds the samples at positions {self.positions}"
