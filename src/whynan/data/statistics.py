"""What is counted over a whole set, in memory that does not grow with it; parts are merged."""

import math
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
        """Count an image by what its reader found."""
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
        """Count the boxes of a table."""
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
        """Return the moments of the number of channels that most images have."""
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
