"""All causes and remedies: found as files, looked up by slug, read as pages, asked for what evidence supports."""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from inspect import cleandoc, isabstract
from types import ModuleType
from typing import ClassVar, Literal, TypeVar

from whynan.diagnosis import causes as causes_package
from whynan.diagnosis import facts
from whynan.diagnosis import remedies as remedies_package
from whynan.diagnosis.rewrite import patch_for
from whynan.errors import UsageError
from whynan.records import CauseFound, Evidence, Incident, RemedyProposed

Group = Literal["data", "math", "optimization", "precision", "architecture", "loss", "machine"]

# Below this a match says less than "not known" would.
LEAST = 0.2
# A cause that lags this far behind the first one does not get to propose remedies.
BEHIND = 0.45


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


class Remedy:
    """A change that should help.

    The docstring is its page in the catalogue: what it does and when it helps, then code under `Code:`.
    """

    slug: ClassVar[str]
    title: ClassVar[str]

    def where(self, evidence: Evidence) -> str | None:
        """Return the place of the change as "train.py:57"; the origin's line unless a remedy knows better."""
        return facts.place(evidence)

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        """Return the change as one line of code, None where it can't be said in one."""
        return None

    def propose(self, evidence: Evidence, cause: str) -> RemedyProposed:
        """Return this remedy fitted to the evidence; `cause` is the slug of the cause that asks for it."""
        if evidence.framework == "torch" or self.slug in _NEUTRAL:
            patch = self.patch(evidence, cause)
        else:
            patch = patch_for(evidence.framework, self.slug, evidence)
        return RemedyProposed(self.slug, self.title, self.where(evidence), patch)


_NEUTRAL = ("normalize-inputs",)
"""Remedies whose line reads the same in every framework."""


SECTIONS = ("Symptoms", "Given", "Bad", "Good", "Code")
GROUPS = ("data", "math", "optimization", "precision", "architecture", "loss", "machine")
Kind = TypeVar("Kind")


class UnknownSlugError(UsageError):
    """No cause and no remedy has this slug."""

    slug = "unknown-slug"

    def __init__(self, asked: str, close: tuple[str, ...]):
        self.asked, self.close = asked, close
        hint = f"Close to it: {', '.join(close)}." if close else "Nothing comes close."
        super().__init__(f"no cause or remedy is called {asked!r}. {hint} `whynan explain` lists all of them.")


@dataclass(frozen=True)
class Page:
    """One page of the catalogue: a docstring taken apart. Sections that a page lacks are empty."""

    text: str
    sections: dict[str, str]


@cache
def all_causes() -> tuple[Cause, ...]:
    """Return every cause, ours by file and others' by entry point, ordered by group and slug."""
    found = {cause.slug: cause for cause in load(causes_package, "whynan.causes", Cause)}  # type: ignore[type-abstract]
    return tuple(sorted(found.values(), key=lambda cause: (GROUPS.index(cause.group), cause.slug)))


@cache
def all_remedies() -> tuple[Remedy, ...]:
    """Return every remedy, ordered by slug."""
    found = {remedy.slug: remedy for remedy in load(remedies_package, "whynan.remedies", Remedy)}
    return tuple(sorted(found.values(), key=lambda remedy: remedy.slug))


def look_up(slug: str) -> Cause | Remedy:
    """Return the cause or remedy of that slug; an unknown one raises UnknownSlugError with what comes close."""
    entries: dict[str, Cause | Remedy] = {cause.slug: cause for cause in all_causes()}
    entries.update({remedy.slug: remedy for remedy in all_remedies()})
    wanted = slug.strip().lower().replace("_", "-").replace(" ", "-")
    if wanted not in entries:
        raise UnknownSlugError(slug, close_to(wanted, tuple(entries)))
    return entries[wanted]


def remedy(slug: str) -> Remedy | None:
    """Return the remedy of that slug, None where there is none."""
    return next((found for found in all_remedies() if found.slug == slug), None)


def causes_helped_by(slug: str) -> tuple[Cause, ...]:
    return tuple(cause for cause in all_causes() if slug in cause.remedies)


def page_of(entry: Cause | Remedy) -> Page:
    text, sections, current = [], {}, ""
    for line in cleandoc(type(entry).__doc__ or "").splitlines():
        name, colon, rest = line.partition(":")
        if colon and name in SECTIONS:
            current = name
            sections[current] = [rest.strip()] if rest.strip() else []
        elif current:
            sections[current].append(line)
        else:
            text.append(line)
    return Page("\n".join(text).strip(), {name: unindent(lines) for name, lines in sections.items()})


def unindent(lines: list[str]) -> str:
    return cleandoc("\n" + "\n".join(lines)).strip()


def close_to(slug: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return slugs like this one: by spelling first, then those that share a word."""
    close = get_close_matches(slug, known, n=4, cutoff=0.5)
    words = {word for word in slug.split("-") if len(word) > 2}
    close += [name for name in known if name not in close and words & set(name.split("-"))]
    return tuple(close[:6])


def load(package: ModuleType, group: str, kind: type[Kind]) -> Iterator[Kind]:
    """Yield an instance of every class of that kind in the package's files and in the entry points of the group.

    A file or an entry point that can't be loaded is passed over: one broken plugin must not take the catalogue along.
    """
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if is_entry(value, kind) and value.__module__ == module.__name__:
                yield value()
    for point in entry_points(group=group):
        try:
            value = point.load()
            if is_entry(value, kind):
                yield value()
        except Exception:
            continue


def is_entry(value: object, kind: type[Kind]) -> bool:
    return isinstance(value, type) and issubclass(value, kind) and value is not kind and not isabstract(value)


def diagnose(
    evidence: Evidence, notes: list[str] | None = None
) -> tuple[tuple[CauseFound, ...], tuple[RemedyProposed, ...]]:
    """Return the causes that the evidence supports and the remedies they propose, best first; never raise.

    No cause is an answer too: nothing that is known fits. A cause or remedy that raises is left out; what it raised is
    added to `notes`, where a list is given.
    """
    notes = [] if notes is None else notes
    try:
        causes = find_causes(evidence, all_causes(), notes)
        return causes, propose_remedies(evidence, causes, notes)
    except Exception as error:
        notes.append(f"the diagnosis failed: {type(error).__name__}: {error}")
        return (), ()


def incident_of(evidence: Evidence, notes: list[str], policy: str, action: str) -> Incident:
    """Ask the catalogue, and put together all that is known of the step."""
    causes, remedies = diagnose(evidence, notes)
    return Incident(
        symptom=evidence.symptom,
        replay=evidence.replay,
        origin=evidence.origin,
        path=evidence.path,
        samples=evidence.samples,
        loss_terms=evidence.loss_terms,
        causes=causes,
        remedies=remedies,
        policy=policy,
        action=action,
        notes=tuple(notes),
    )


def find_causes(evidence: Evidence, causes: Iterable[Cause], notes: list[str]) -> tuple[CauseFound, ...]:
    """Ask every cause; return the matches, most confident first."""
    found = []
    for cause in causes:
        try:
            match = cause.match(evidence)
        except Exception as error:
            notes.append(f"cause {cause.slug} could not be judged: {type(error).__name__}: {error}")
            continue
        if match is not None and match.confidence >= LEAST:
            confidence = min(match.confidence, 0.99)
            found.append(CauseFound(cause.slug, confidence, cause.title, match.explanation, match.evidence))
    return tuple(sorted(found, key=lambda cause: -cause.confidence))


def propose_remedies(
    evidence: Evidence, causes: tuple[CauseFound, ...], notes: list[str]
) -> tuple[RemedyProposed, ...]:
    """Return the remedies of the ranked causes, without duplicates.

    The first cause's best two come first, then the best of every other close cause, then the rest in order: a wrong
    first cause must not push the right remedy off the list.
    """
    by_slug = {cause.slug: cause for cause in all_causes()}
    close = [cause for cause in causes if cause.confidence >= causes[0].confidence - BEHIND]
    asked: list[tuple[str, str]] = []
    for rank, cause in enumerate(close):
        asked += [(slug, cause.slug) for slug in by_slug[cause.slug].remedies[: 2 if rank == 0 else 1]]
    for cause in close:
        asked += [(slug, cause.slug) for slug in by_slug[cause.slug].remedies]
    proposed: dict[str, RemedyProposed] = {}
    for slug, cause_slug in asked:
        found = remedy(slug)
        if found is None or slug in proposed:
            continue
        try:
            proposed[slug] = found.propose(evidence, cause_slug)
        except Exception as error:
            notes.append(f"remedy {slug} could not be fitted: {type(error).__name__}: {error}")
            proposed[slug] = RemedyProposed(found.slug, found.title, None, None)
    return tuple(proposed.values())
