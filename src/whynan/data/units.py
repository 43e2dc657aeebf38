"""A unit of work: some files of one kind, read and checked together in a worker process, and what comes of them."""

import marshal
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from whynan.data.finding import Findings
from whynan.data.looks import ImageRow
from whynan.data.measure import Statistics
from whynan.data.options import Options
from whynan.data.storage import Storage


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
    """What comes of a unit; everything in it can be merged."""

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
    """What every worker knows."""

    storage: Storage
    options: Options
    is_kept: bool = True
    """Whether a cache keeps what is read."""


def pack(facts: Any) -> bytes:
    """Return facts, plain data, as bytes. They are read by the same Python only, from the user's own folder."""
    return marshal.dumps(facts)


def unpack(data: bytes) -> Any:
    return marshal.loads(data)
