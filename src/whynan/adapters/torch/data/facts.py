"""Facts about a batch, and about its boxes by the convention that most of them follow."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from whynan.adapters.torch.data import batch
from whynan.adapters.torch.data.batch import batch_size
from whynan.adapters.torch.opfacts import summarize, unseen
from whynan.data.finding import box_flaw, ordinal
from whynan.records import BatchFacts, Role, TensorSummary

_MAJORITY = 0.6


def degenerate_boxes(samples: list[tuple[int, Any, str | None]]) -> list[tuple[int, tuple[float, ...]]]:
    """Return (position, box) for each degenerate box among (position, float tensor [n, 4], format or None).

    Corners (x1, y1, x2, y2) and sizes (x, y, w, h or centre first) look alike in one box. Where no format is given,
    the batch decides: ordered corners in most boxes mean corners. Where neither reading fits most boxes, nothing is
    claimed.
    """
    return [(position, box) for position, _, box, _ in _degenerate(samples)]


def box_words(samples: list[tuple[int, Any, str | None]]) -> list[tuple[int, str]]:
    """Return (position, "its third box has no width (x1=x2=412)") for the same boxes, in the words of `whynan data`."""
    found = []
    for position, row, box, as_corners in _degenerate(samples):
        flaw = box_flaw(box, as_corners)
        if flaw is not None:
            found.append((position, f"its {ordinal(row)} box has {flaw}"))
    return found


def _degenerate(samples: list[tuple[int, Any, str | None]]) -> list[tuple[int, int, tuple[float, ...], bool]]:
    """Return (position, row of the sample's boxes, box, whether boxes are corners)."""
    known = next((format_ for _, _, format_ in samples if format_), None)
    boxes = torch.cat([rows for _, rows, _ in samples]) if samples else torch.zeros(0, 4)
    as_corners = known == "xyxy" if known else are_corners(boxes)
    if as_corners is None:
        return []
    found = []
    for position, rows, _ in samples:
        sizes = rows[:, 2:] - rows[:, :2] if as_corners else rows[:, 2:]
        bad = (sizes <= 0).any(1) & torch.isfinite(rows).all(1) & ~_is_padding(rows)
        places = bad.nonzero().reshape(-1).tolist()
        found += [(position, row, tuple(box), as_corners) for row, box in zip(places, rows[bad].tolist())]
    return found


def mended(boxes: Any, as_corners: bool | None) -> Any:
    """Return boxes [n, 4] with swapped corners put in order and sides without length made one pixel long."""
    least = 1.0 if float(boxes.abs().nan_to_num().max()) > 2 else 0.01
    # A missing corner is the other one; what is missing of both is 0.
    known = torch.where(torch.isfinite(boxes), boxes, boxes.roll(2, 1)) if as_corners else boxes
    known = torch.where(torch.isfinite(known), known, 0.0)
    first, last = known[:, :2], known[:, 2:]
    if as_corners:
        first, last = torch.minimum(first, last), torch.maximum(first, last)
        last = torch.where(last > first, last, first + least)
    elif as_corners is False:
        last = torch.where(last == 0, least, last.abs())
    return torch.where(_is_padding(boxes)[:, None], boxes, torch.cat([first, last], 1))


def are_corners(boxes: Any) -> bool | None:
    """Return whether most boxes [n, 4] are ordered corners, None where they are no sizes either."""
    boxes = boxes[torch.isfinite(boxes).all(1) & ~_is_padding(boxes)]
    if len(boxes) and _share(_ordered(boxes)) >= _MAJORITY:
        return True
    return False if len(boxes) and _share((boxes[:, 2:] > 0).all(1)) >= _MAJORITY else None


def _ordered(boxes: Any) -> Any:
    """Corners in order, equal ones included: the box in question may be the only one."""
    return (boxes[:, 2:] >= boxes[:, :2]).all(1)


def _is_padding(boxes: Any) -> Any:
    """Rows of 0 or -1 fill a batch up to the image with the most boxes."""
    return (boxes == 0).all(1) | (boxes == -1).all(1)


def _share(truths: Any) -> float:
    return float(truths.double().mean())


N_TENSORS = 40
"""Tensors that are summarized; a detection batch of 64 images has hundreds."""
N_FINDINGS = 64
"""Entries of each kind that are kept."""

_WORD = r"(?:^|[^a-z])(?:{})s?\d*(?:$|[^a-z])"
_TARGET = re.compile(
    _WORD.format("y|t|target|label|lbl|mask|masks|box|boxes|bbox|gt|truth|seg|class|classes|tgt|ys"), re.I
)
_NOT_TARGET = re.compile(r"attention|attn|pad|key|src|valid|token_type|input|feature|image|img", re.I)
_LENGTH = re.compile(r"len|length|width|n_frames|num_", re.I)
_NO_LABEL = re.compile(r"len|size|area|(^|[^a-z])id|idx|index|crowd|shape|orig|width|height|box|count|num_", re.I)
_BOX = re.compile(r"box|roi", re.I)

_MIN_CONSTANT = 8
"""A sample of fewer values may well be constant by chance."""
_MIN_MASK = 16
_LARGE = 1e6
"""Beyond it the summary says what every sample reaches in the same place ("all_reach"): a scale and no stray value."""


class _Part(NamedTuple):
    """A tensor of the batch; `position` is the sample that it belongs to, None where it holds all of them."""

    name: str
    values: Any
    role: Role
    position: int | None

    def samples(self, size: int) -> list[tuple[int, Any]]:
        if self.position is not None:
            return [(self.position, self.values)]
        return list(enumerate(self.values)) if batch.leading(self.values) == size else []


def describe(named_items: dict[str, Any], num_classes: int | None = None) -> BatchFacts:
    """Return the facts of a batch whose items have the names that the script gives them.

    `num_classes` is the number of classes of the model's output, where that is known.
    """
    size = _common_size(named_items)
    with unseen():
        parts = list(_parts(named_items, size))
        tensors = tuple(_summary(part) for part in parts[:N_TENSORS])
        if size is None:
            return BatchFacts(None, tensors)
        return BatchFacts(
            size=size,
            tensors=tensors,
            degenerate_boxes=_safe(lambda found, n: degenerate_boxes(_boxes(found, n)), parts, size),
            box_words=_safe(lambda found, n: box_words(_boxes(found, n)), parts, size),
            constant_samples=_safe(_constant, parts, size),
            ignored_samples=_safe(_ignored, parts, size),
            empty_targets=_safe(_empty, parts, size),
            labels_out_of_range=_safe(lambda found, n: _out_of_range(found, n, num_classes), parts, size),
            odd_labels=_safe(_odd, parts, size),
        )


def _summary(part: _Part) -> TensorSummary:
    made = summarize(part.values, part.role, part.name)
    if made.abs_max > _LARGE and part.values.dim() > 1 and len(part.values) > 2:
        least = float(part.values.abs().flatten(1).amin(0).amax())
        return replace(made, extra={**made.extra, "all_reach": least})
    return made


def _safe(find: Any, parts: list[_Part], size: int) -> Any:
    """One kind of finding that fails on an odd batch must not cost the others."""
    try:
        return tuple(find(parts, size))[:N_FINDINGS]
    except Exception:
        return ()


def _common_size(named_items: dict[str, Any]) -> int | None:
    if len(named_items) == 1:
        return batch_size(next(iter(named_items.values())))
    return batch_size(dict(named_items))


def _parts(named_items: dict[str, Any], size: int | None) -> Iterator[_Part]:
    found = list(_walk(named_items, size))
    names = [name for name, _, _ in found]
    fields = list(dict.fromkeys(_field(name) for name in names))
    roles = [role_by_name(name) for name in names]
    if "target" not in roles and len(fields) > 1:
        # Nothing is called a target: by custom the second field is.
        second = fields[1]
        roles = ["target" if _field(name) == second and role is None else role for name, role in zip(names, roles)]
    for (name, values, position), role in zip(found, roles):
        tensor = values if isinstance(values, torch.Tensor) else _as_tensor(values)
        if tensor is not None:
            yield _Part(name, tensor, role or "batch", position)


def _as_tensor(array: Any) -> Any:
    return torch.as_tensor(array) if array.dtype.kind in "biuf" else None


def _field(name: str) -> str:
    """The part of a name that says which field it is: not which sample of a list."""
    steps = re.findall(r"[^.\[\]]+|\[[^\]]*\]", name)
    return "".join(steps[:2]) if len(steps) > 1 and steps[1].startswith("[") else steps[0] if steps else ""


def role_by_name(name: str) -> Role | None:
    """Return what a field's name says that it is; None where it says nothing."""
    last = re.sub(r"\[\d+\]", "", name)
    for step in reversed(last.split(".")):
        if _NOT_TARGET.search(step):
            return "batch"
        if _TARGET.search(step):
            return "target"
    return None


def _walk(named_items: dict[str, Any], size: int | None) -> Iterator[tuple[str, Any, int | None]]:
    for name, item in named_items.items():
        yield from _walk_one(name, item, size, top=len(named_items) == 1, position=None, depth=batch.DEPTH)


def _walk_one(
    name: str, value: Any, size: int | None, top: bool, position: int | None, depth: int
) -> Iterator[tuple[str, Any, int | None]]:
    if batch.is_leaf(value):
        yield name, value, position
        return
    if depth == 0:
        return
    if batch.is_sequence(value):
        each = position is None and batch.is_list_of_samples(value, top, size)
        for place, part in enumerate(value):
            yield from _walk_one(f"{name}[{place}]", part, size, False, place if each else position, depth - 1)
        return
    for step, part in batch.fields_of(value) or ():
        yield from _walk_one(f"{name}{step}", part, size, False, position, depth - 1)


def _boxes(parts: list[_Part], size: int) -> list[tuple[int, Any, str | None]]:
    """Return (position, boxes [n, 4], format or None) of all that are boxes, by name or by shape."""
    samples = []
    for part in parts:
        named = bool(_BOX.search(part.name)) or hasattr(part.values, "canvas_size")
        if not named and (part.role != "target" or not part.values.is_floating_point()):
            continue
        format_ = str(getattr(getattr(part.values, "format", None), "value", "")).lower() or None
        for position, sample in part.samples(size):
            columns = sample.shape[-1] if sample.ndim else 0
            rows = sample.reshape(-1, columns).double() if columns in (4, 5) else None
            if rows is None or (columns == 5 and (not named or _is_numbered(rows))):
                continue
            if named or (sample.ndim == 2 and part.position is not None):
                samples.append((position, rows[:, :4], format_))  # the fifth is an angle or a score
    return samples


def _is_numbered(rows: Any) -> bool:
    """Whether rows of five are the number of an image and then two corners."""
    return bool((rows[:, 3:] > rows[:, 1:3]).all(1).any())


def _constant(parts: list[_Part], size: int) -> list[int]:
    found: set[int] = set()
    for part in parts:
        if part.role != "batch" or part.values.dtype == torch.bool:
            continue
        constant, others = set(), 0
        for position, sample in part.samples(size):
            if sample.numel() >= _MIN_CONSTANT and bool(((sample - sample.reshape(-1)[0]) == 0).all()):  # Inf is not
                constant.add(position)
            else:
                others += 1
        if others or size == 1:  # all of them: a mask of ones, a column of placeholders
            found |= constant
    return sorted(found)


def _ignored(parts: list[_Part], size: int) -> list[int]:
    found = set()
    for part in _labels(parts):
        for position, sample in part.samples(size):
            if (
                sample.numel()
                and _is_ignore_value(sample.reshape(-1)[0].item(), sample, part.values)
                and (bool((sample == sample.reshape(-1)[0]).all()))
            ):
                found.add(position)
    return sorted(found)


def _is_ignore_value(value: int, sample: Any, all_values: Any) -> bool:
    """-100 is PyTorch's own; -1 needs something to be ignored among, 255 a map of labels."""
    if value == -100:
        return True
    if value == 255:
        return bool(sample.ndim >= 2)
    return value == -1 and (sample.numel() > 1 or bool((all_values >= 0).any()))


def _labels(parts: list[_Part]) -> Iterator[_Part]:
    for part in parts:
        dtype = part.values.dtype
        is_integer = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
        if part.role == "target" and is_integer and not _NO_LABEL.search(part.name):
            yield part


def _empty(parts: list[_Part], size: int) -> list[int]:
    found = set()
    for part in parts:
        lengths = _LENGTH.search(part.name) is not None and not part.values.is_floating_point()
        for position, sample in part.samples(size):
            no_rows = part.role == "target" and sample.ndim >= 1 and sample.numel() == 0
            no_length = lengths and sample.numel() == 1 and int(sample) == 0
            if no_rows or no_length or (part.role == "target" and _is_blank_mask(sample)):
                found.add(position)
    return sorted(found)


def _is_blank_mask(sample: Any) -> bool:
    return sample.ndim >= 2 and sample.numel() >= _MIN_MASK and not bool((sample != 0).any())


def _out_of_range(parts: list[_Part], size: int, num_classes: int | None) -> list[tuple[int, float]]:
    found: Counter[tuple[int, float]] = Counter()
    for part in _labels(parts):
        for position, sample in part.samples(size):
            values = sample.to(torch.int64)
            bad = (values < 0) & (values != -100) & (values != -1)
            if num_classes is not None:
                above = values >= num_classes
                if sample.ndim >= 2 or sample.dtype == torch.uint8:
                    above &= values != 255
                bad |= above
            for value in torch.unique(values[bad]).tolist():
                found[position, float(value)] += 1
    return sorted(found)


def _odd(parts: list[_Part], size: int) -> list[tuple[int, float]]:
    """A single sample with another value than 0 and 1 among others that have both."""
    found = []
    for part in parts:
        samples = part.samples(size) if part.role == "target" and not _NO_LABEL.search(part.name) else []
        odd = [(position, sample) for position, sample in samples if not is_binary(sample)]
        if len(samples) >= 4 and len(odd) == 1 and bool(torch.isfinite(part.values).all()):
            position, sample = odd[0]
            others = torch.cat([other.reshape(-1) for k, other in samples if k != position])
            if len(torch.unique(others)) == 2:
                values = sample[(sample != 0) & (sample != 1)]
                found += [(position, float(value)) for value in torch.unique(values)[-3:]]
    return found


def is_binary(labels: Any) -> bool:
    return bool(((labels == 0) | (labels == 1)).all())
