"""What a cause is: a page of the catalogue and a function from evidence to a match."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from whynan.records.evidence import Evidence

Group = Literal["data", "math", "optimization", "precision", "architecture", "loss", "machine"]


@dataclass(frozen=True)
class Match:
    """The evidence supports a cause: how strongly (0 to 1), why in plain words, and facts that a reader can check."""

    confidence: float
    explanation: str
    evidence: tuple[str, ...] = ()


class Cause(ABC):
    """A way in which a step goes non-finite.

    The docstring is its page in the catalogue: a first paragraph that says what it is, `Symptoms:` that says how it
    looks, then code under `Given:` (what both examples start from), `Bad:` and `Good:`. Both examples compute `loss`.
    """

    slug: ClassVar[str]
    title: ClassVar[str]
    group: ClassVar[Group]
    remedies: ClassVar[tuple[str, ...]]
    """Slugs of what helps, best first."""

    @abstractmethod
    def match(self, evidence: Evidence) -> Match | None:
        """Return how well the evidence fits this cause, None where it does not."""
