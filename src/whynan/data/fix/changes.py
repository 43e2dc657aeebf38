"""What a repair did, and would not do."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from whynan.data.finding import Finding

DROPPED = {"box-zero-size", "box-nonfinite", "box-outside-image", "box-duplicate", "label-missing"}
"""Checks whose annotation is left out of the copy."""


@dataclass
class Orders:
    """What is to be done in one file: slugs by the index of the annotation; None stands for the file as a whole."""

    by_index: dict[int | None, list[Finding]] = field(default_factory=dict)

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> "Orders":
        made = cls()
        for finding in findings:
            if finding.fixable:
                made.by_index.setdefault(finding.annotation, []).append(finding)
        return made

    def slugs(self, index: int) -> set[str]:
        return {finding.check for finding in self.by_index.get(index, ())}

    def of_file(self) -> list[Finding]:
        return self.by_index.get(None, [])


@dataclass
class Changes:
    """Counts of what was done, by sentence; findings that were left as they are, by check."""

    done: Counter[str] = field(default_factory=Counter)
    n_files: int = 0
    n_changed: int = 0
    refused: list[str] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    place: str = ""

    def text(self) -> str:
        """Return it as a person would be told."""
        lines = [f"{self.n_changed} of {self.n_files} annotation files repaired, all of them written to {self.place}"]
        lines += [f"  {n:6,}  {what}" for what, n in self.done.most_common()]
        if self.left:
            left = ", ".join(f"{slug} {n:,}" for slug, n in self.left.most_common())
            lines.append(f"not repaired, as it takes somebody who knows the pictures: {left}")
        lines += [f"not written: {reason}" for reason in self.refused]
        return "\n".join(lines)
