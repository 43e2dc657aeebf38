"""Where a step's non-finite values came from outside: the batch, the data set, the model, an earlier iteration."""

from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Subset

from whynan.adapters.torch.data import loader
from whynan.adapters.torch.data.batch import batch_size
from whynan.adapters.torch.data.facts import _parts as batch_parts
from whynan.adapters.torch.data.facts import role_by_name
from whynan.adapters.torch.data.lineage import find_in_containers, resolve, row_of
from whynan.adapters.torch.data.refetch import draws_ahead, matching
from whynan.adapters.torch.frames import live_user_frame
from whynan.records import Role, Sample
from whynan.snapshot import _MISSING, frame_values, target_names
from whynan.trace import Gather, Leaf

if TYPE_CHECKING:
    from whynan.adapters.torch.attempt import Outcome
    from whynan.adapters.torch.plan import Plan

_DATA_ROWS = 3
_MOST_SAMPLES = 8
LAYERS = {"addmm", "mm", "bmm", "mv", "addmv", "dot", "convolution", "baddbmm", "linear"}


def values_at_start(plan: "Plan") -> dict[str, Any]:
    values = frame_values(plan.target.frame) or {}
    snapshot = plan.target.snapshot
    if snapshot is not None:
        values |= {name: value for name, value in snapshot.names.values.items() if value is not _MISSING}
    return values


def batch_items(plan: "Plan", original: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the batch by the names that the script gives it.

    `original` is what these names stood for before samples were replaced to find the guilty one.
    """
    values = values_at_start(plan) | (original or {})
    items = {name: values[name] for name in target_names(plan.target.site) if _is_data(values.get(name))}
    for number, item in enumerate(plan.target.drawn):
        if _is_data(item):
            items[f"batch{number or ''}"] = item
    return _fields(items)


def _fields(items: dict[str, Any]) -> dict[str, Any]:
    """Take a batch that is one tuple of fields apart: `for batch in loader` is `for x, y in loader`."""
    if len(items) != 1:
        return items
    ((name, batch),) = items.items()
    size = batch_size(batch)
    if (
        size is None
        or not isinstance(batch, (list, tuple))
        or any(_length(field) not in (size, None) for field in batch)
    ):
        return items
    return {f"{name}[{number}]": field for number, field in enumerate(batch)}


def _length(field: Any) -> int | None:
    if isinstance(field, (list, tuple)):
        return len(field)
    shape: tuple[int, ...] = getattr(field, "shape", ())
    return int(shape[0]) if len(shape) else None


def _is_data(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, list, tuple, dict)) or type(value).__module__ == "numpy"


def storage_key(value: Any) -> int | None:
    if isinstance(value, torch.Tensor):
        try:
            return int(value.untyped_storage().data_ptr()) or id(value)
        except Exception:
            return id(value)
    interface = getattr(value, "__array_interface__", None)
    return int(interface["data"][0]) if interface else None


def role_of(leaf: Leaf, plan: "Plan", outcome: "Outcome") -> tuple[Role, str | None]:
    """Return what a non-finite tensor is that no op of the step has written, and what it is called."""
    known = plan.host.known
    names = known.parameter_names()
    for parameter in known.parameters():
        if storage_key(parameter) == leaf.key:
            return "parameter", names.get(id(parameter), "parameter")
    for buffer in known.buffers():
        if storage_key(buffer) == leaf.key:
            return "buffer", names.get(id(buffer), "buffer")
    for parameter in known.parameters():
        if parameter.grad is not None and storage_key(parameter.grad) == leaf.key:
            return "gradient", names.get(id(parameter))
    computed = _computed_name(leaf, outcome)
    if computed is not None:
        return "computed", computed
    for part in batch_parts(batch_items(plan), None):
        if storage_key(part.values) == leaf.key:
            is_target = part.role == "target" or (role_by_name(part.name) is None and _skips_layers(leaf, outcome))
            return "target" if is_target else "batch", part.name
    gather = gather_of(leaf, outcome)
    found = [
        (name, value) for space in outcome.frames for name, value in space.items() if storage_key(value) == leaf.key
    ]
    # Of a series and its views the one that the rows were taken from is meant.
    drawn = [name for name, value in found if gather is not None and is_source(value, gather)]
    for name in drawn or [name for name, _ in found]:
        return ("target" if _sounds_like_target(name) else "batch"), name
    if gather is not None or leaf.constant or row_of_dataset(leaf) is not None:
        return "batch", None
    return "computed", None


def row_of_dataset(leaf: Leaf) -> int | None:
    """Return the row of a data set's own table that a tensor is a view of, where a loader has just read from it."""
    for origin in loader.recent():
        dataset = origin.dataset
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        for value in getattr(dataset, "__dict__", {}).values():
            for table in value if isinstance(value, (list, tuple)) and len(value) <= 16 else (value,):
                if (
                    isinstance(table, torch.Tensor)
                    and storage_key(table) == leaf.key
                    and table.dim()
                    and table.stride(0)
                ):
                    return int((leaf.offset - table.storage_offset()) // table.stride(0))
    return None


def _skips_layers(leaf: Leaf, outcome: "Outcome") -> bool:
    """Whether no layer of the step got what was made of a tensor: what the loss alone is fed is no input."""
    if outcome.tracer is None:
        return False
    trace = outcome.tracer.trace
    fed: set[int] = set()
    for index, record in sorted(trace.records.items()):
        if any((e.leaf is not None and e.leaf.key == leaf.key) or e.parent in fed for e in record.edges):
            if record.name in LAYERS and record.phase == "forward":
                return False
            fed.add(index)
    return bool(fed) and any(op.name in LAYERS for op in trace.forward.values())


def _computed_name(leaf: Leaf, outcome: "Outcome") -> str | None:
    """Return what the script calls a tensor that autograd made before this iteration: a result, and no data."""
    for space in outcome.frames:
        for name, value in space.items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None and storage_key(value) == leaf.key:
                return name
    return None


def is_source(value: Any, gather: Gather) -> bool:
    """Return whether a tensor is the one that rows were gathered from, and no other view of its memory."""
    return (
        isinstance(value, torch.Tensor)
        and value.storage_offset() == gather.source_offset
        and value.shape[:1] == (gather.source_rows,)
    )


def _sounds_like_target(name: str) -> bool:
    return name.lower() in ("y", "t", "target", "targets", "label", "labels", "temp", "gt") or "target" in name.lower()


def gather_of(leaf: Leaf, outcome: "Outcome") -> Gather | None:
    """Return the gather that took rows from the tensor which the leaf is."""
    if outcome.tracer is None:
        return None
    for gather in outcome.tracer.trace.gathers:
        if gather.source_key == leaf.key and gather.source_rows > 1:
            return gather
    return None


def samples_by_row(plan: "Plan", outcome: "Outcome") -> tuple[Sample, ...]:
    """Return samples that the walk itself names: a non-finite row of the tensor that the batch was gathered from."""
    leaf = outcome.slice.leaf if outcome.slice is not None else None
    if leaf is None or role_of(leaf, plan, outcome)[0] in ("parameter", "buffer", "gradient"):
        return ()
    gather = gather_of(leaf, outcome)
    if gather is not None:
        row = (leaf.offset - gather.source_offset) // gather.row_stride
        position = gather.rows.index(row) if row in gather.rows else None
        return (Sample(position, row, None, "its row of the data is non-finite"),)
    found = _position_in_batch(leaf, plan)
    if found is None:
        place = row_of_dataset(leaf)
        return () if place is None else (Sample(None, place, None, "its row of the data is non-finite"),)
    position, size, rows = found
    bad = [k for k in rows if k != position]
    if 2 * len(bad) >= size > 2:
        return ()  # most of the batch is like that: no sample stands out
    why = "its own values are non-finite"
    return tuple(sample_at(plan, k, why, size) for k in [position, *bad][:_MOST_SAMPLES])


def _position_in_batch(leaf: Leaf, plan: "Plan") -> tuple[int, int, list[int]] | None:
    """Return which sample of a batch an element of a non-finite tensor belongs to, the batch's size, all such rows."""
    items = batch_items(plan)
    groups = [items, *({name: item} for name, item in items.items())] if len(items) > 1 else [items]
    for group in groups:
        size = size_of(group)
        if size is None:
            continue
        for part in batch_parts(group, size):
            if storage_key(part.values) != leaf.key:
                continue
            if part.position is not None:
                return part.position, size, []
            values = part.values
            if values.dim() and values.shape[0] == size and values.stride(0):
                bad = ~torch.isfinite(values.detach()).reshape(size, -1).all(1)
                return (
                    int((leaf.offset - values.storage_offset()) // values.stride(0)),
                    size,
                    bad.nonzero()[:, 0].tolist(),
                )
    return None


def size_of_group(plan: "Plan", outcome: "Outcome") -> int | None:
    """Return the size of the batch that the non-finite leaf belongs to; an iteration may draw from several loaders."""
    leaf = outcome.slice.leaf if outcome.slice is not None else None
    found = _position_in_batch(leaf, plan) if leaf is not None else None
    return found[1] if found is not None else None


def is_ragged(size: int) -> bool:
    """Whether the loader drew another number of samples than the batch seems to hold: graphs joined into one."""
    lengths = {len(origin.indices) for origin in loader.recent() if origin.indices}
    return bool(lengths) and size not in lengths


def size_of(items: dict[str, Any]) -> int | None:
    if not items:
        return None
    return batch_size(items if len(items) > 1 else next(iter(items.values())))


def sample_at(plan: "Plan", position: int, why: str, size: int | None = None) -> Sample:
    """Return the sample at a place of the batch, with its index in the dataset where a loader drew it."""
    origin = batch_origin(plan, size)
    if origin is not None and 0 <= position < len(origin.indices):
        resolved = resolve(origin.dataset, origin.indices[position])
        index = resolved.index if isinstance(resolved.index, int) else None
        detail = f"{why}; {resolved.detail}" if resolved.detail else why
        return Sample(position, index, resolved.path, detail)
    if origin is not None and origin.places is not None and position < len(origin.places):
        return Sample(position, origin.places[position], None, f"{why}; counted along the stream")
    index = _index_by_identity(plan, position)
    return Sample(position, index if index is not None else _index_by_values(plan, position, size), None, why)


def batch_origin(plan: "Plan", size: int | None = None) -> loader.BatchOrigin | None:
    """Return what is known of the batch in hand (of `size` samples), if a DataLoader drew it."""
    items = batch_items(plan)
    size = size_of(items) if size is None else size
    candidates = loader.recent(int(plan.target.own is not None))
    if draws_ahead() and candidates and size is not None:
        return _matching(plan, items, size)
    for origin in candidates:
        if size is not None and len(origin.indices or origin.places or ()) == size:
            return origin
    if size is None and items and candidates and len(candidates[0].indices) == 1:
        return candidates[0]
    return None


def _matching(plan: "Plan", items: dict[str, Any], size: int) -> loader.BatchOrigin | None:
    """Return the batch in hand where a trainer draws ahead; looked for once in an incident."""
    known = plan.matched.get(plan.target.serial)
    if known is None:
        known = plan.matched[plan.target.serial] = (matching(items, size),)
    return known[0]


def _index_by_identity(plan: "Plan", position: int) -> int | None:
    """Return the place of a sample in a list of the script's, when the very object is there."""
    spaces = [frame_values(plan.target.frame) or {}, plan.target.frame.f_globals]
    for item in batch_items(plan).values():
        if isinstance(item, (list, tuple)) and position < len(item):
            found = find_in_containers(item[position], spaces, min_length=len(item) + 1)
            if found is not None:
                return found[1]
    return None


def _index_by_values(plan: "Plan", position: int, size: int | None) -> int | None:
    """Return the row of a table in the hands of those who called a trainer that has the sample's very values."""
    items = [item for item in batch_items(plan).values() if isinstance(item, torch.Tensor)]
    if plan.method != "closure" or size is None:
        return None
    spaces = live_spaces(plan.target.frame.f_back)
    for item in items:
        if item.dim() > 1 and len(item) == size:
            found = row_of(item[position], spaces, min_rows=size + 1)
            if found is not None:
                return found[1]
    return None


def live_spaces(frame: FrameType | None) -> list[dict[str, Any]]:
    """Return the variables of the user's frames from `frame` outwards."""
    spaces = []
    while (frame := live_user_frame(frame)) is not None:
        spaces.append(frame_values(frame) or {})
        frame = frame.f_back
    return spaces


def candidate_positions(outcome: "Outcome", size: int, items: dict[str, Any] | None = None) -> list[int]:
    """Return places in the batch that the origin's elements point at, likeliest first."""
    if outcome.slice is None:
        return []
    found: list[int] = _by_membership(outcome.slice.origin, size, items or {})
    origin = outcome.slice.origin
    records = ([origin] if origin is not None else []) + list(outcome.slice.path)
    for record in records[:40]:
        shape = record.output.shape if record.output is not None else None
        for element in record.elements[:4]:
            position = _as_position(element, shape, size)
            if position is not None and position not in found:
                found.append(position)
        if len(found) >= _DATA_ROWS:
            break
    return found


def _by_membership(origin: Any, size: int, items: dict[str, Any]) -> list[int]:
    """Graphs and other ragged batches name each row's sample in an integer vector: 0, 0, 0, 1, 1, 2, ..."""
    if origin is None or origin.output is None or not origin.output.shape:
        return []
    for part in batch_parts(items, None):
        values = part.values
        if (
            values.dim() != 1
            or values.is_floating_point()
            or values.shape[0] != origin.output.shape[0]
            or not len(values)
        ):
            continue
        if int(values.max()) == size - 1 and bool((values[1:] >= values[:-1]).all()):
            return list(dict.fromkeys(int(values[element[0]]) for element in origin.elements if element))
    return []


def _as_position(element: tuple[int, ...], shape: tuple[int, ...] | None, size: int) -> int | None:
    if not element or shape is None or not shape:
        return None
    if shape[0] == size:
        return element[0]
    if shape[0] % size == 0:
        return element[0] // (shape[0] // size)
    if len(shape) > 1 and shape[1] == size:
        return element[1]
    return None


def is_repeated(outcome: "Outcome") -> bool:
    """Whether the origin's line went wrong several times over, as it does for each image of a list in turn."""
    origin = outcome.slice.origin if outcome.slice is not None else None
    if origin is None or outcome.tracer is None:
        return False
    alike = [r for r in outcome.tracer.trace.records.values() if (r.name, r.stack, r.phase, r.module) == (
        origin.name, origin.stack, origin.phase, origin.module)]  # fmt: skip
    return sum(not record.edges for record in alike) > 1


def is_one_of_many(outcome: "Outcome") -> bool:
    """Whether the origin went wrong in a small part of its output only, as one bad sample makes it."""
    origin = outcome.slice.origin if outcome.slice is not None else None
    if origin is None or origin.output is None or not origin.output.shape:
        return False
    return origin.output.n_nonfinite * 2 <= origin.output.n_elements
