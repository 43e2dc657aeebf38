"""What checks look at one by one: an image, a mask, an array, and at the end the whole set."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from whynan.data.finding import Check, Finding
from whynan.data.measure import ArrayMeasure


@dataclass(frozen=True, slots=True)
class ImageLook:
    """An image file: what its reader found (`readers.images.read`)."""

    file: str
    facts: dict[str, Any]

    @property
    def extension(self) -> str:
        return self.file.rpartition(".")[2].lower()


@dataclass(frozen=True, slots=True)
class MaskLook:
    """A mask: what its reader found (`readers.masks.read`), and what the set declares about classes."""

    file: str
    facts: dict[str, Any]
    image: str | None
    image_size: tuple[int, int] | None
    classes: dict[int, str] | None
    ignore_index: int | None


@dataclass(frozen=True, slots=True)
class ArrayLook:
    """An array or a table: what was measured of it."""

    file: str
    measure: ArrayMeasure
    classes: int | None = None


@dataclass(slots=True)
class ImageRow:
    """The little that is remembered of each image."""

    file: str
    size: tuple[int, int] | None
    mode: str | None
    n_bytes: int
    crc: int
    split: str | None


@dataclass(slots=True)
class PartView:
    """One annotated part of the set (a COCO file, a folder of label files ...) as a whole."""

    format: str
    file: str
    """What findings about the part name: a file or a folder."""
    declared: dict[int, str] | None
    """Class names by index or id, None where the set declares none."""
    counts: Counter[Any] = field(default_factory=Counter)
    """Annotations (masks: pixels) by class: by index or id where classes are declared, else by name."""
    ignore_index: int | None = None
    n_boxes: int = 0
    n_odd_boxes: int = 0
    n_other_boxes: dict[str, int] = field(default_factory=dict)
    """How many boxes make sense when they are read another way, by the name of that way."""
    n_crowd: int = 0
    classes_by_split: dict[str, Counter[Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Overview:
    """The whole set, after everything was read."""

    images: list[ImageRow]
    parts: list[PartView]
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of the content, for those images whose size and checksum others share."""


def find_cells(check: Check, thing: ArrayLook, is_wanted: Callable[[str], bool]) -> Iterator[Finding]:
    """Yield a finding for each non-finite cell (wide rows: each row), and one for those that were only counted."""
    measure = thing.measure
    n_named = {True: 0, False: 0}
    for row, column, kind, n in measure.cells:
        n_named[kind == "nan"] += n
        if not is_wanted(kind):
            continue
        if column is None:
            what = measure.names[0] if measure.names else measure.name
            value = kind if n == 1 else f"{n} {kind}"
            yield check.finding(thing.file, value, f"row {row}: {what} has {value}", row)
            continue
        name = measure.names[column] if measure.names else f"column {column}"
        what = "missing, or nan" if measure.columns and kind == "nan" else kind
        yield check.finding(thing.file, f"{name}={kind}", f"row {row}: {name} is {what}", row)
    missed = (measure.n_nan if is_wanted("nan") else measure.n_inf) - n_named[is_wanted("nan")]
    if missed > 0:
        yield check.finding(thing.file, f"{missed} more", f"{missed} more of them, in rows that are not listed")
