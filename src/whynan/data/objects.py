"""A look at a data set in memory, sample by sample, leaf by leaf."""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from whynan.data.annotations import Annotations
from whynan.data.finding import look_at, report
from whynan.data.measure import ArrayMeasure
from whynan.data.sources import Failure
from whynan.data.units import Job, MaskLook, Outcome, shown
from whynan.data.work import look_at_measure
from whynan.data.work.annotated import count_classes, find_unknown_labels, look_at_table

DEPTH = 5
_TARGET = re.compile(
    r"(^|[._])(y|t|targets?|labels?|lbls?|masks?|boxes|bbox(es)?|gt|truth|classes|class|category_id|area|iscrowd|keypoints|segmentation)\d*$",
    re.IGNORECASE,
)
_SKIPPED = re.compile(
    r"(^|[._])(image_id|img_id|id|idx|index|path|file_name|filename|size|orig_size|area|iscrowd|num_.*|.*_len(gth)?s?)$",
    re.I,
)


@dataclass(frozen=True)
class Leaf:
    """One array of a sample. `box_format` is what the object itself says (torchvision's BoundingBoxes)."""

    name: str
    values: Any
    is_target: bool
    box_format: str | None = None


def leaves(sample: Any) -> Iterator[Leaf]:
    """Yield the arrays of a sample. In a pair the first is the input; in a mapping the names decide."""
    if isinstance(sample, (tuple, list)) and sample and not _is_numbers(sample):
        for place, part in enumerate(sample):
            name = "input" if place == 0 else "target" if len(sample) == 2 else f"target{place}"
            yield from _walk(name, part, place > 0, DEPTH)
    elif isinstance(sample, Mapping):
        for key, part in sample.items():
            yield from _walk(str(key), part, None, DEPTH)
    else:
        yield from _walk("input", sample, False, DEPTH)


def _walk(name: str, value: Any, is_target: bool | None, depth: int) -> Iterator[Leaf]:
    if _SKIPPED.search(name):
        return
    array = to_numpy(value)
    if array is not None:
        role = bool(_TARGET.search(name)) if is_target is None else is_target
        format_ = getattr(getattr(value, "format", None), "value", None)
        yield Leaf(name, array, role, str(format_).lower() if isinstance(format_, str) else None)
    elif depth and isinstance(value, Mapping):
        for key, part in value.items():
            yield from _walk(f"{name}.{key}", part, is_target, depth - 1)
    elif depth and isinstance(value, (tuple, list)):
        for place, part in enumerate(value):
            yield from _walk(f"{name}.{place}", part, is_target, depth - 1)


def to_numpy(value: Any) -> Any | None:
    """Return a number, tensor, picture or list of numbers as an array; None for anything else."""
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "biufc" else None
    if isinstance(value, (bool, int, float, np.generic)):
        array = np.asarray(value)
        return array if array.dtype.kind in "biufc" else None
    if isinstance(value, (str, bytes)) or value is None:
        return None
    for convert in (_from_torch, _from_method, _from_pillow, _from_numbers):
        array = convert(value)
        if array is not None and array.dtype.kind in "biufc":
            return array
    return None


def _from_torch(value: Any) -> Any | None:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return None
    plain = value.detach().cpu()
    if plain.is_sparse:
        plain = plain.to_dense()
    return plain.float().numpy() if plain.dtype == torch.bfloat16 else plain.as_subclass(torch.Tensor).numpy()


def _from_method(value: Any) -> Any | None:
    for name in ("numpy", "asnumpy"):  # TensorFlow; MindSpore
        method = getattr(value, name, None)
        if callable(method):
            try:
                made = method()
            except Exception:
                continue
            return made if isinstance(made, np.ndarray) else np.asarray(made)
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
        return np.asarray(value)
    return None


def _from_pillow(value: Any) -> Any | None:
    return np.asarray(value) if type(value).__module__.split(".")[0] == "PIL" and hasattr(value, "getbands") else None


def _from_numbers(value: Any) -> Any | None:
    return np.asarray(value) if isinstance(value, (list, tuple)) and value and _is_numbers(value) else None


def _is_numbers(values: Any) -> bool:
    return all(isinstance(each, (bool, int, float, np.generic)) for each in values)


HELD = 128
"""Samples that are stacked before they are measured."""
_MAJORITY = 0.6
_CHANNELS = (1, 2, 3, 4)
_RELATIVE = 1.5
"""Boxes of which no coordinate is larger are relative to the image."""


class ObjectLook:
    """Gathers what is to be said about all samples."""

    def __init__(self, job: Job, name: str, box_format: str | None) -> None:
        self.job = job
        self.name = name
        self.box_format = box_format
        self.outcome = Outcome(part=0)
        self.measures: dict[tuple[str, int, int], ArrayMeasure] = {}
        self._held: dict[tuple[str, int, int], list[tuple[int, Any]]] = defaultdict(list)
        self.boxes: list[Any] = []
        self.box_rows: list[tuple[str, int, tuple[float, float]]] = []
        self.box_labels: list[Any] = []
        self.channels: Counter[int] = Counter()
        self.first_of: dict[int, int] = {}
        self.n = 0

    def add(self, index: int, sample: Any) -> None:
        self.n += 1
        if isinstance(sample, Failure):
            what = f"{type(sample.error).__name__}: {shown(sample.error, 160)}"
            self.outcome.findings.add(
                [report("sample-unreadable", f"{self.name}[{index}]", type(sample.error).__name__, what, index)]
            )
            return
        found = list(leaves(sample))
        size = next((size for leaf in found if not leaf.is_target and (size := image_size(leaf.values))), None)
        labels = {
            leaf.name.rpartition(".")[0]: leaf.values for leaf in found if leaf.name.endswith(("labels", "classes"))
        }
        for leaf in found:
            if _is_boxes(leaf):
                self._add_boxes(index, leaf, size, labels.get(leaf.name.rpartition(".")[0]))
            elif leaf.is_target and _is_mask(leaf.values, size):
                self._add_mask(index, leaf, size)
            else:
                self._hold(index, leaf)

    def _hold(self, index: int, leaf: Leaf) -> None:
        values = leaf.values
        channel = values.shape[_channel_axis(values.shape)] if values.ndim == 3 and image_size(values) else 0
        if channel and not leaf.is_target:
            self.channels[channel] += 1
            self.first_of.setdefault(channel, index)
        # Rows of one length are measured together; what varies in length has no features to compare.
        width = values.shape[0] if values.ndim == 1 else channel
        key = (leaf.name, values.ndim, int(width))
        measure = self.measures.get(key)
        if measure is None:
            is_label = leaf.is_target and values.dtype.kind in "iu"
            shape = [0, *values.shape]
            measure = ArrayMeasure(None, leaf.name, str(values.dtype), shape, is_target=leaf.is_target or is_label)
            measure.columns = None
            self.measures[key] = measure
        held = self._held[key]
        held.append((index, values))
        n_bytes = values.nbytes * len(held)
        if len(held) >= HELD or n_bytes > 64 << 20:
            self._measure(key)

    def _measure(self, key: tuple[str, int, int]) -> None:
        """Measure what is held; samples of several shapes go one by one."""
        held, measure = self._held.pop(key, []), self.measures[key]
        groups: dict[tuple[int, ...], list[tuple[int, Any]]] = defaultdict(list)
        for index, values in held:
            groups[values.shape].append((index, values))
        for group in groups.values():
            first, n_cells, n_constant = measure.n_rows, len(measure.cells), len(measure.constant_rows)
            n_rows = {label: len(rows) for label, rows in measure.label_rows.items()}
            measure.add(np.stack([values for _, values in group]))
            # Rows were counted from 0; the index in the data set is what can be looked up.
            indices = [index for index, _ in group]
            measure.cells[n_cells:] = [
                (indices[row - first], c, kind, n) for row, c, kind, n in measure.cells[n_cells:]
            ]
            for label, rows in measure.label_rows.items():
                rows[n_rows.get(label, 0) :] = [indices[row - first] for row in rows[n_rows.get(label, 0) :]]
            measure.constant_rows[n_constant:] = [indices[row - first] for row in measure.constant_rows[n_constant:]]

    def _add_boxes(self, index: int, leaf: Leaf, size: tuple[int, int] | None, labels: Any) -> None:
        rows = leaf.values.reshape(-1, 4).astype(np.float64)
        self.box_format = self.box_format or leaf.box_format
        self.boxes.append(rows)
        self.box_rows.append((f"{self.name}[{index}].{leaf.name}", len(rows), size or (np.nan, np.nan)))
        fits = labels is not None and getattr(labels, "shape", None) == (len(rows),) and labels.dtype.kind in "iu"
        self.box_labels.append(labels.astype(np.int64) if fits else np.full(len(rows), -1, np.int64))
        self.outcome.statistics.per_image[len(rows)] += 1
        if not len(rows):
            finding = report(
                "image-without-annotations", f"{self.name}[{index}].{leaf.name}", "0 boxes", "no box in this sample"
            )
            self.outcome.findings.add([finding])

    def _add_mask(self, index: int, leaf: Leaf, size: tuple[int, int] | None) -> None:
        array = np.squeeze(leaf.values)
        values, counts = np.unique(array, return_counts=True)
        facts: dict[str, Any] = {
            "values": dict(zip(values.tolist(), counts.tolist())),
            "size": (array.shape[1], array.shape[0]),
        }
        options = self.job.options
        classes = {k: str(k) for k in range(options.classes)} if options.classes is not None else None
        look = MaskLook(f"{self.name}[{index}].{leaf.name}", facts, None, size, classes, options.ignore_index)
        self.outcome.findings.add(look_at("mask", look, options))
        self.outcome.statistics.classes.update(
            {str(v): n for v, n in facts["values"].items() if v != options.ignore_index}
        )
        self.outcome.statistics.counted_in = "pixels"

    def finish(self) -> Outcome:
        for key in list(self._held):
            self._measure(key)
        for (name, *_), measure in self.measures.items():
            measure.shape[0] = measure.n_rows
            look_at_measure(self.job, f"{self.name}:{name}", measure, self.outcome)
        self._find_channels()
        if self.boxes:
            self._look_at_boxes()
        self.outcome.statistics.n_images += sum(self.channels.values())
        return self.outcome

    def _find_channels(self) -> None:
        if len(self.channels) < 2:
            return
        usual = self.channels.most_common(1)[0][0]
        shares = ", ".join(f"{n} of {channel}" for channel, n in self.channels.most_common())
        for channel, index in self.first_of.items():
            if channel != usual:
                message = f"has {channel} channels, while most have {usual}: {shares}"
                self.outcome.findings.add(
                    [report("image-mode-varies", f"{self.name}[{index}]", channel, message, index)]
                )

    def _look_at_boxes(self) -> None:
        raw = np.concatenate(self.boxes)
        counts = np.array([n for _, n, _ in self.box_rows])
        file: Any = np.repeat(np.arange(len(counts)), counts)
        size = np.array([size for _, _, size in self.box_rows], dtype=np.float64)[file]
        layout = self._layout(raw)
        with np.errstate(invalid="ignore", over="ignore"):
            boxes = {
                "xyxy": lambda: raw,
                "xywh": lambda: np.concatenate([raw[:, :2], raw[:, :2] + raw[:, 2:]], axis=1),
                "cxcywh": lambda: np.concatenate([raw[:, :2] - raw[:, 2:] / 2, raw[:, :2] + raw[:, 2:] / 2], axis=1),
            }[layout]()
            finite = np.abs(raw[np.isfinite(raw)])
            if finite.size and finite.max() <= _RELATIVE:
                size = np.where(np.isnan(size), 640.0, size)
                boxes = boxes * np.tile(size, 2)
        label = np.concatenate(self.box_labels)
        table = Annotations(
            layout=layout,  # type: ignore[arg-type]
            files=[name for name, _, _ in self.box_rows],
            images=[],
            file=file,
            number=np.arange(len(file)) - np.repeat(np.cumsum(counts) - counts, counts),
            image=np.full(len(file), -1),
            size=size,
            raw=raw,
            boxes=boxes,
            # Rows of 0 or -1 fill a batch up to the image with the most boxes.
            has_box=~((raw == 0).all(axis=1) | (raw == -1).all(axis=1)),
            label=label,
            crowd=np.zeros(len(file), bool),
        )
        look_at_table(self.job, table, self.outcome)
        if self.job.options.classes is not None and (label >= 0).any():
            declared = {k: str(k) for k in range(self.job.options.classes)}
            find_unknown_labels(table, declared, self.outcome, missing=(-1,))
        count_classes(table, [None] * len(counts), str, self.outcome)
        self.outcome.statistics.classes.update(self.outcome.counts)
        self.outcome.statistics.counted_in = "annotations"

    def _layout(self, raw: Any) -> str:
        """Return how boxes are written. Where nothing says it, ordered corners in most of them mean corners."""
        if self.box_format in ("xyxy", "xywh", "cxcywh"):
            return self.box_format
        good = raw[np.isfinite(raw).all(axis=1)]
        if not len(good) or (good[:, 2:] >= good[:, :2]).all(axis=1).mean() >= _MAJORITY:
            return "xyxy"
        return "xywh"


def image_size(values: Any) -> tuple[int, int] | None:
    """Return width and height of an array that looks like an image, [C, H, W], [H, W, C] or [H, W]."""
    shape = values.shape
    if len(shape) == 2 and min(shape) >= 8:
        return int(shape[1]), int(shape[0])
    if len(shape) != 3:
        return None
    axis = _channel_axis(shape)
    if shape[axis] not in _CHANNELS:
        return None
    height, width = (shape[1], shape[2]) if axis == 0 else (shape[0], shape[1])
    return int(width), int(height)


def _channel_axis(shape: tuple[int, ...]) -> int:
    return 0 if shape[0] in _CHANNELS and (shape[-1] not in _CHANNELS or shape[0] <= shape[-1]) else len(shape) - 1


def _is_boxes(leaf: Leaf) -> bool:
    last = leaf.name.rpartition(".")[2].lower()
    return "box" in last and leaf.values.shape[-1:] == (4,) and leaf.values.ndim in (1, 2)


def _is_mask(values: Any, size: tuple[int, int] | None) -> bool:
    squeezed = [side for side in values.shape if side != 1]
    return values.dtype.kind in "iub" and len(squeezed) == 2 and size is not None and min(squeezed) >= 8
