"""Measures of arrays and columns, and the statistics that are put together from them."""

import math
import re
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from whynan.data.annotations import Annotations

_MOST_SIZES = 50_000


@dataclass
class Channels:
    """Moments of the pixels of images with one number of channels, each image weighted by its pixels."""

    weight: float = 0.0
    n_images: int = 0
    total: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)

    def add(self, weight: float, n_images: int, total: list[float], squares: list[float]) -> None:
        self.weight += weight
        self.n_images += n_images
        self.total = [a + b for a, b in zip(self.total or [0.0] * len(total), total)]
        self.squares = [a + b for a, b in zip(self.squares or [0.0] * len(squares), squares)]

    @property
    def mean(self) -> list[float]:
        return [value / self.weight for value in self.total]

    @property
    def std(self) -> list[float]:
        return [math.sqrt(max(0.0, q / self.weight - m * m)) for q, m in zip(self.squares, self.mean)]


@dataclass
class Statistics:
    """Counts and histograms. Box sizes are counted by the binary logarithm of sqrt(width * height) in pixels."""

    n_images: int = 0
    """Images that were decoded."""
    n_listed: int = 0
    """Images that COCO files list."""
    n_annotations: int = 0
    n_files: int = 0
    n_bytes: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    box_sizes: Counter[int] = field(default_factory=Counter)
    box_aspects: Counter[int] = field(default_factory=Counter)
    per_image: Counter[int] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    channels: dict[int, Channels] = field(default_factory=dict)
    arrays: list[dict[str, Any]] = field(default_factory=list)
    """Name, shape, dtype, mean and standard deviation of each array."""
    counted_in: str = "annotations"
    """What `classes` counts: annotations, pixels, images or rows."""

    def merge(self, other: "Statistics") -> None:
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            elif isinstance(mine, int):
                setattr(self, each.name, mine + theirs)
            elif isinstance(mine, list):
                mine += theirs
        for n, channels in other.channels.items():
            self.channels.setdefault(n, Channels()).add(
                channels.weight, channels.n_images, channels.total, channels.squares
            )
        if other.classes:
            self.counted_in = other.counted_in

    def add_image(self, facts: dict[str, Any]) -> None:
        if facts.get("error"):
            return
        width, height = facts["size"]
        self.n_images += 1
        self.n_bytes += facts["bytes"]
        self.modes[facts["mode"]] += 1
        self.formats[facts["format"] or "?"] += 1
        if len(self.sizes) < _MOST_SIZES or (width, height) in self.sizes:
            self.sizes[width, height] += 1
        if not facts.get("n") or (facts.get("wide") and (facts["nan"] or facts["inf"])):
            return
        weight = width * height
        scale = weight / facts["n"]
        total, squares = [v * scale for v in facts["sum"]], [v * scale for v in facts["sumsq"]]
        self.channels.setdefault(len(total), Channels()).add(weight, 1, total, squares)

    def add_boxes(self, table: Annotations) -> None:
        self.n_annotations += len(table)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            sides = table.sides
            good = table.has_box & (sides[:, 0] > 0) & (sides[:, 1] > 0) & np.isfinite(sides[:, 0] * sides[:, 1])
            sizes = np.floor(np.log2(sides[good, 0] * sides[good, 1]) / 2).astype(int)
            aspects = np.round(np.log2(sides[good, 0] / sides[good, 1])).astype(int)
        for counter, values in ((self.box_sizes, sizes), (self.box_aspects, aspects)):
            found, counts = np.unique(values, return_counts=True)
            counter.update(dict(zip(found.tolist(), counts.tolist())))

    @property
    def usual_channels(self) -> Channels | None:
        return max(self.channels.values(), key=lambda each: each.n_images, default=None)


def initial_losses(classes: Counter[str], n_declared: int | None) -> dict[str, float]:
    """Return the losses that a classifier which knows nothing shows at step 0.

    "uniform" is ln C, cross-entropy with equal outputs for all C classes (a fresh network); "prior" is the entropy of
    the class distribution, the best that outputs without a look at the input can do; "binary" is ln 2, binary
    cross-entropy at outputs of 0. Natural logarithms, as all frameworks take them.
    """
    n = n_declared or len(classes)
    if n < 2:
        return {}
    total = sum(classes.values())
    shares = [count / total for count in classes.values() if count] if total else []
    entropy = -sum(share * math.log(share) for share in shares)
    return {"uniform": math.log(n), "prior": entropy, "binary": math.log(2)}


MOST_CELLS = 20_000
"""Non-finite places and constant rows that are kept with their position; all are counted."""
CELL_FEATURES = 256
"""Rows of at most this many features have each of their non-finite cells named; wider ones are named by row."""
MOST_FEATURES = 1 << 16
MOST_LABELS = 10_000
LABEL_ROWS = 8
"""Rows that are kept of each label."""
MIN_CONSTANT = 16
"""A sample of fewer values may well be constant by chance."""
ROBUST_ROWS = 4096
"""Rows that median and quartiles are taken from: the first ones."""

_TARGET = re.compile(
    r"^(y|ys|t|target|targets|label|labels|lbl|lbls|class|classes|gt|truth|mask|masks|outcome)(_.*|\d*)$|_(y|label|labels|target|targets)$",
    re.IGNORECASE,
)


def is_target_name(name: str) -> bool:
    """Tell whether an array or column of this name is what a model should predict."""
    return _TARGET.search(name) is not None


@dataclass
class ArrayMeasure:
    """Of an array [n, ...]: places of NaN and Inf, moments of features [n, f] or channels, constant samples, labels."""

    key: str | None
    name: str
    dtype: str
    shape: list[int]
    names: list[str] | None = None
    """Names of the features, for tables."""
    columns: list[int] | None = None
    """Place of each feature in the file, for tables."""
    is_target: bool | None = None
    note: str | None = None
    n_rows: int = 0
    n_nan: int = 0
    n_inf: int = 0
    cells: list[tuple[int, int | None, str, int]] = field(default_factory=list)
    """(row, feature or None, "nan", "inf" or "-inf", how many) of non-finite values."""
    constant_rows: list[int] = field(default_factory=list)
    n_constant: int = 0
    channel_axis: int | None = None
    low: float = float("inf")
    high: float = float("-inf")
    count: Any = None
    """f64[f], finite values of each feature (or channel)."""
    mean: Any = None
    m2: Any = None
    """f64[f], sum of squared distances from the mean."""
    lows: Any = None
    highs: Any = None
    middle: Any = None
    """f64[3, f], quartiles of the first rows."""
    labels: dict[int, int] | None = None
    label_rows: dict[int, list[int]] = field(default_factory=dict)
    """The first rows of each label, for targets [n]."""
    square_mean: float = 0.0
    """Mean of the squares, for targets."""

    def __post_init__(self) -> None:
        if self.is_target is None:
            self.is_target = is_target_name(self.name)

    @property
    def is_image_like(self) -> bool:
        return len(self.shape) >= 3

    @property
    def std(self) -> Any:
        """f64[f], standard deviations, NaN where there is no value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.m2 / self.count)

    def add(self, piece: Any) -> None:
        """Take in the next rows, an array [k, ...] of any numeric dtype."""
        if piece.ndim == 0:
            piece = piece.reshape(1)
        first, self.n_rows = self.n_rows, self.n_rows + len(piece)
        if not piece.size:
            return
        if piece.dtype.kind == "c":
            piece = np.stack([piece.real, piece.imag], axis=-1)
        if piece.dtype.kind == "b":
            piece = piece.astype(np.uint8)
        finite = None
        if piece.dtype.kind == "f":
            all_finite = np.isfinite(piece)
            if not all_finite.all():
                finite = all_finite
                self._add_cells(piece, finite, first)
        self._add_constant(piece, first)
        if piece.dtype.kind in "iu" and self.is_target:
            self._add_labels(piece, first)
        self._add_moments(piece, finite)

    def _add_cells(self, piece: Any, finite: Any, first: int) -> None:
        nan = np.isnan(piece)
        self.n_nan += int(nan.sum())
        self.n_inf += int((~finite & ~nan).sum())
        if len(self.cells) >= MOST_CELLS:
            return
        if piece.ndim == 1 or (piece.ndim == 2 and piece.shape[1] <= CELL_FEATURES):
            for place in np.argwhere(~finite)[: MOST_CELLS - len(self.cells)].tolist():
                column = place[1] if len(place) == 2 else None
                self.cells.append((first + place[0], column, str(piece[tuple(place)]), 1))
            return
        flat = piece.reshape(len(piece), -1)
        for kind, bad in (("nan", nan), ("inf", ~finite & ~nan)):
            counts = bad.reshape(len(piece), -1).sum(axis=1)
            for row in np.flatnonzero(counts)[: MOST_CELLS - len(self.cells)].tolist():
                text = kind if kind == "nan" or (flat[row] == np.inf).any() else "-inf"
                self.cells.append((first + row, None, text, int(counts[row])))

    def _add_constant(self, piece: Any, first: int) -> None:
        if piece.ndim < 2 or piece[0].size < MIN_CONSTANT or self.is_target:
            return
        flat = piece.reshape(len(piece), -1)
        constant = (flat == flat[:, :1]).all(axis=1)
        self.n_constant += int(constant.sum())
        room = MOST_CELLS - len(self.constant_rows)
        self.constant_rows += [first + row for row in np.flatnonzero(constant)[:room].tolist()]

    def _add_labels(self, piece: Any, first: int) -> None:
        if self.labels is None:
            self.labels = {}
        if len(self.labels) > MOST_LABELS:
            return
        for value, n in zip(*(part.tolist() for part in np.unique(piece, return_counts=True))):
            self.labels[value] = self.labels.get(value, 0) + n
            rows = self.label_rows.setdefault(value, [])
            if piece.ndim == 1 and len(rows) < LABEL_ROWS:
                rows += [first + row for row in np.flatnonzero(piece == value)[: LABEL_ROWS - len(rows)].tolist()]

    def _add_moments(self, piece: Any, finite: Any) -> None:
        rows = self._as_features(piece)
        values = rows.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if finite is None:
                count = np.full(values.shape[1], float(len(values)))
                mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
                m2 = ((values - mean) ** 2).sum(axis=0)
            else:
                mask = self._as_features(finite)
                count = mask.sum(axis=0).astype(np.float64)
                mean = np.where(mask, values, 0).sum(axis=0) / np.maximum(count, 1)
                m2 = np.where(mask, (values - mean) ** 2, 0).sum(axis=0)
                low = np.where(mask, values, np.inf).min(axis=0)
                high = np.where(mask, values, -np.inf).max(axis=0)
            squares = float((m2 + count * mean**2).sum())
        if self.count is None:
            self.count, self.mean, self.m2, self.lows, self.highs = count, mean, m2, low, high
            head = np.where(np.isfinite(values), values, np.nan)[:ROBUST_ROWS]
            if values.ndim == 2 and not self.is_image_like and np.isfinite(head).any(axis=0).all():
                self.middle = np.nanpercentile(head, (25, 50, 75), axis=0)
        else:
            total = self.count + count
            delta = mean - self.mean
            share = np.divide(count, total, out=np.zeros_like(total), where=total > 0)
            with np.errstate(over="ignore", invalid="ignore"):
                self.m2 = self.m2 + m2 + delta**2 * self.count * share
                self.mean = self.mean + delta * share
            self.count = total
            self.lows, self.highs = np.minimum(self.lows, low), np.maximum(self.highs, high)
        n_all = float(self.count.sum())
        self.square_mean += (squares - self.square_mean * float(count.sum())) / max(n_all, 1.0)
        self.low, self.high = min(self.low, float(low.min())), max(self.high, float(high.max()))

    def _as_features(self, piece: Any) -> Any:
        """Return [k, f]: features of a table, channels of images, one feature of anything else."""
        if piece.ndim == 1:
            return piece.reshape(-1, 1)
        if piece.ndim == 2 and piece.shape[1] <= MOST_FEATURES:
            return piece
        axis = self._find_channels(piece.shape)
        if axis is None:
            return piece.reshape(-1, 1)
        return np.moveaxis(piece, axis, -1).reshape(-1, piece.shape[axis])

    def _find_channels(self, shape: tuple[int, ...]) -> int | None:
        if len(shape) < 4:
            return None
        for axis in (1, len(shape) - 1):
            if shape[axis] in (1, 2, 3, 4):
                self.channel_axis = axis
                return axis
        return None

    def to_facts(self) -> dict[str, Any]:
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> "ArrayMeasure":
        made = cls(**facts)
        for name in ("count", "mean", "m2", "lows", "highs", "middle"):
            value = getattr(made, name)
            if value is not None:
                setattr(made, name, np.array(value, dtype=np.float64))
        return made
