"""A unit of work: files of one kind, read and checked together in a worker, what checks see, and what comes of it."""

import marshal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from whynan.data.finding import Check, Finding, Findings, Options, report
from whynan.data.measure import ArrayMeasure, Statistics
from whynan.data.storage import Storage

Problem = tuple[str, int | None, str, str]
"""Slug of the check, index of the annotation, value, message."""


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
    """A mask: what its reader found (`readers.images.read_mask`), and what the set declares about classes."""

    file: str
    facts: dict[str, Any]
    image: str | None
    image_size: tuple[int, int] | None
    classes: dict[int, str] | None
    ignore_index: int | None


@dataclass(frozen=True, slots=True)
class ArrayLook:
    file: str
    measure: ArrayMeasure
    classes: int | None = None


@dataclass(slots=True)
class ImageRow:
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


@dataclass(frozen=True, slots=True)
class Item:
    """One file to look at. `facts` are those of an earlier look, where the cache still has them."""

    name: str
    split: str | None = None
    image: str | None = None
    size: tuple[int, int] | None = None
    facts: bytes | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """Files of one kind. `part` is the number of the part they belong to, `shared` what all of its units know."""

    kind: str
    items: tuple[Item, ...]
    part: int = -1
    shared: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    part: int = -1
    worker: int = 0
    """Id of the process that did it."""
    n_done: int = 0
    n_read: int = 0
    """Files that were opened, and not known from the cache."""
    findings: Findings = field(default_factory=Findings)
    statistics: Statistics = field(default_factory=Statistics)
    rows: list[ImageRow] = field(default_factory=list)
    fresh: list[tuple[str, str, bytes]] = field(default_factory=list)
    """(kind, file, facts) for the cache."""
    counts: Counter[Any] = field(default_factory=Counter)
    splits: dict[str, Counter[Any]] = field(default_factory=dict)
    n_boxes: int = 0
    n_odd_boxes: int = 0
    other_boxes: Counter[str] = field(default_factory=Counter)
    n_crowd: int = 0
    used: list[str] = field(default_factory=list)
    """Images that a COCO file names and that are there."""
    declared: dict[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    storage: Storage
    options: Options
    is_kept: bool = True
    """Whether a cache keeps what is read."""


def pack(facts: Any) -> bytes:
    """Return facts, plain data, as bytes. They are read by the same Python only, from the user's own folder."""
    return marshal.dumps(facts)


def unpack(data: bytes) -> Any:
    return marshal.loads(data)


def as_findings(file: str, problems: Iterable[Problem]) -> Iterator[Finding]:
    """Yield the problems of a file as findings; a slug may carry a severity, "annotation-unreadable:warning"."""
    for slug, annotation, value, message in problems:
        name, _, severity = slug.partition(":")
        yield report(name, file, value, message, annotation, severity or None)  # type: ignore[arg-type]


def of_os_error(slug: str, error: OSError) -> Problem:
    """Return the problem of a file that could not be opened or read."""
    if isinstance(error, FileNotFoundError):
        return slug, None, "vanished", "the file vanished during the scan"
    if isinstance(error, PermissionError):
        return slug, None, "permission denied", "no permission to read this file"
    reason = error.strerror or str(error) or type(error).__name__
    return slug, None, reason, f"the file cannot be read: {reason}"


def shown(text: object, limit: int = 60) -> str:
    """Return a value as one short line of printable characters."""
    line = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(line.split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


Read = Callable[[bytes], Any]


def facts_of(job: Job, item: Item, kind: str, outcome: Outcome, read: Read, slug: str) -> Any | None:
    """Return what `read` makes of the file's bytes; None, with a finding of `slug`, where it cannot be opened."""
    if item.facts is not None:
        return unpack(item.facts)
    try:
        data = job.storage.read(item.name)
    except OSError as error:
        outcome.findings.add(as_findings(item.name, [of_os_error(slug, error)]))
        return None
    except MemoryError:
        outcome.findings.add(as_findings(item.name, [(slug, None, "memory", "there is not enough memory to read it")]))
        return None
    outcome.n_read += 1
    facts = read(data)
    if job.is_kept:
        outcome.fresh.append((kind, item.name, pack(facts)))
    return facts
