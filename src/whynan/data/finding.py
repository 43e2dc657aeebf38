"""One finding, and the collection of all of them in bounded memory."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first. error: a loss or a loader breaks on it; warning: it may, or it harms; note: often on purpose."""

KEPT = 50_000
"""Findings kept of one check; beyond them only the count goes on, so that memory stays bounded."""


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
        return {
            "check": self.check,
            "severity": self.severity,
            "file": self.file,
            "annotation": self.annotation,
            "value": self.value,
            "message": self.message,
            "cause": self.cause,
            "fixable": self.fixable,
        }


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
        """Take in the findings of another look at another part."""
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
