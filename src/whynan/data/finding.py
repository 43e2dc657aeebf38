"""What a user may set and what must be installed for it; what a finding is, and the catalogue of defects."""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from whynan.errors import WhynanError

Format = Literal["auto", "coco", "voc", "yolo", "masks", "folder", "npz", "csv", "parquet", "webdataset"]
EngineName = Literal["local", "ray"]

TRAIN_SIZE = 640
"""Longest side, in pixels, that images are scaled to for training where the user says nothing else."""
TOLERANCE = 0.25
"""Pixels that a box may stand out of its image: rounding in exports. Half a pixel and more is reported."""


@dataclass(frozen=True, slots=True)
class Options:
    """Settings that checks and readers see; plain data, sent to worker processes as it is."""

    format: Format = "auto"
    classes: int | None = None
    names: tuple[str, ...] = ()
    ignore_index: int | None = None
    train_size: int = TRAIN_SIZE
    tolerance: float = TOLERANCE
    pixels: bool = True
    """Whether image files are read at all; False looks at annotations alone."""
    exact: bool = False
    """Whether mean and standard deviation use each pixel of each image, where a grid of 64 x 64 is the default."""


class MissingExtraError(WhynanError):
    """A library that this kind of data needs is not installed."""

    slug = "missing-extra"


class DataError(WhynanError):
    """A data set cannot be looked at at all: not there, not readable, of no known format."""

    slug = "data-unreadable"


def need(module: str, extra: str, what: str) -> Any:
    """Return an imported module; without it raise MissingExtraError, which names the pip line."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtraError(
            f"{what} needs {module.partition('.')[0]}, which is not installed here: pip install 'whynan[{extra}]'"
        ) from error


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first. error: a loss or a loader breaks on it; warning: it may, or it harms; note: often on purpose."""

KEPT = 50_000
"""Findings kept of one check; beyond them only the count goes on, so that memory stays bounded."""


def box_flaw(box: Sequence[float], is_corners: bool) -> str | None:
    """Return what a box lacks: "no width (x1=x2=412)"; None where it has a positive size.

    `is_corners`: (x1, y1, x2, y2), else the last two numbers are width and height.
    """
    lacks = []
    for k, side in ((0, "width"), (1, "height")):
        size = box[k + 2] - box[k] if is_corners else box[k + 2]
        if size > 0:
            continue
        axis = "xy"[k]
        if is_corners:
            numbers = f"{axis}1={axis}2={box[k]:g}" if size == 0 else f"{axis}1={box[k]:g}, {axis}2={box[k + 2]:g}"
        else:
            numbers = f"{side[0]}={size:g}"
        lacks.append(f"{'no' if size == 0 else 'a negative'} {side} ({numbers})")
    return " and ".join(lacks) or None


def ordinal(index: int) -> str:
    """Return the place of a 0-based index in words: third for 2, in digits beyond the tenth."""
    return _ORDINALS[index] if index < len(_ORDINALS) else f"{index + 1}th"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at one place of the data set.

    `file` is relative to the data set, `annotation` the 0-based index of the object, line, row or feature in it (None:
    the file as a whole). `image` and `box` (x1, y1, x2, y2 in pixels) say where to look at it.
    """

    check: str
    severity: Severity
    file: str
    annotation: int | None
    value: str
    message: str
    cause: str | None = None
    fixable: bool = False
    image: str | None = None
    box: tuple[float, float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        names = ("check", "severity", "file", "annotation", "value", "message", "cause", "fixable")
        return {name: getattr(self, name) for name in names}


Found = Iterator[Finding]


class Findings:
    """All findings of a look at a data set: at most `KEPT` of each check and severity, and the count of every one."""

    def __init__(self, kept: int = KEPT) -> None:
        self._limit = kept
        self._found: dict[tuple[Severity, str], list[Finding]] = {}
        self.counts: Counter[tuple[Severity, str]] = Counter()

    def add(self, found: Iterable[Finding]) -> None:
        for finding in found:
            key = (finding.severity, finding.check)
            self.counts[key] += 1
            if self.counts[key] <= self._limit:
                self._found.setdefault(key, []).append(finding)

    def add_counts(self, counts: Counter[tuple[Severity, str]]) -> None:
        """Count findings that were dropped where they were made."""
        self.counts.update(counts)

    def merge(self, other: "Findings") -> None:
        for key, found in other._found.items():
            room = self._limit - len(self._found.get(key, ()))
            self._found.setdefault(key, []).extend(found[: max(0, room)])
        self.counts.update(other.counts)

    def groups(self) -> Iterator[tuple[Severity, str, int, list[Finding]]]:
        """Yield (severity, check, count, findings in order of file and annotation), worst first, most frequent
        first."""
        keys = sorted(self.counts, key=lambda key: (SEVERITIES.index(key[0]), -self.counts[key], key[1]))
        for severity, check in keys:
            found = sorted(self._found.get((severity, check), ()), key=_place)
            yield severity, check, self.counts[severity, check], found

    def count(self, severity: Severity) -> int:
        return sum(n for (kind, _), n in self.counts.items() if kind == severity)

    def __iter__(self) -> Iterator[Finding]:
        for _, _, _, found in self.groups():
            yield from found

    def __len__(self) -> int:
        return sum(self.counts.values())


def _place(finding: Finding) -> tuple[str, int, str]:
    return finding.file, -1 if finding.annotation is None else finding.annotation, finding.value


Subject = Literal["annotations", "image", "mask", "array", "set", "reader"]
"""What `find` is called with: a table of annotations, the facts of one image, mask or array, the overview of the whole
set. A reader reports by itself what it could not read."""


class Check:
    """Base of all checks. The docstring of a check says why a loss cares; its slug is the name of its file."""

    slug: ClassVar[str]
    title: ClassVar[str]
    severity: ClassVar[Severity]
    """The usual severity; a finding may have a milder one where what was measured says so."""
    cause: ClassVar[str | None] = None
    """Slug of the cause of `whynan explain` that a training run would end with."""
    fixable: ClassVar[bool] = False
    subject: ClassVar[Subject] = "reader"

    def __init_subclass__(cls) -> None:
        cls.slug = cls.__module__.rpartition(".")[2].replace("_", "-")

    @property
    def why(self) -> str:
        return " ".join((self.__doc__ or "").split())

    def find(self, thing: Any) -> Found:
        """Yield what is wrong with a thing of this check's subject."""
        return iter(())

    def find_with(self, thing: Any, options: Options) -> Found:
        """The same of a check that asks what the user has set."""
        return self.find(thing)

    def finding(
        self,
        file: str,
        value: object,
        message: str,
        annotation: int | None = None,
        *,
        severity: Severity | None = None,
        fixable: bool | None = None,
        image: str | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> Finding:
        return Finding(
            check=self.slug,
            severity=severity or self.severity,
            file=file,
            annotation=annotation,
            value=str(value),
            message=message,
            cause=self.cause,
            fixable=self.fixable if fixable is None else fixable,
            image=image,
            box=box,
        )


@cache
def all_checks() -> dict[str, Check]:
    from whynan.data import checks

    found: dict[str, Check] = {}
    for module in pkgutil.iter_modules(checks.__path__):
        content = vars(importlib.import_module(f"{checks.__name__}.{module.name}"))
        for value in content.values():
            if isinstance(value, type) and issubclass(value, Check) and value.__module__.endswith(f".{module.name}"):
                found[value.slug] = value()
    return dict(sorted(found.items()))


@cache
def checks_of(subject: Subject) -> tuple[Check, ...]:
    return tuple(check for check in all_checks().values() if check.subject == subject)


def look_at(subject: Subject, thing: Any, options: Options) -> Found:
    """Yield what all checks of a subject find in a thing."""
    for check in checks_of(subject):
        yield from check.find_with(thing, options)


def report(
    slug: str, file: str, value: object, message: str, annotation: int | None = None, severity: Severity | None = None
) -> Finding:
    """Return the finding of a check that a reader makes itself."""
    return all_checks()[slug].finding(file, value, message, annotation, severity=severity)
