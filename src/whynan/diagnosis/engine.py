"""From evidence to ranked causes and remedies."""

from collections.abc import Iterable

from whynan.diagnosis import catalogue
from whynan.diagnosis.catalogue import Cause
from whynan.records.evidence import Evidence
from whynan.records.recording import CauseFound, RemedyProposed

# Below this a match says less than "not known" would.
LEAST = 0.2
# A cause that lags this far behind the first one does not get to propose remedies.
BEHIND = 0.45


def diagnose(
    evidence: Evidence, notes: list[str] | None = None
) -> tuple[tuple[CauseFound, ...], tuple[RemedyProposed, ...]]:
    """Return the causes that the evidence supports and the remedies they propose, best first; never raise.

    No cause is an answer too: nothing that is known fits. A cause or remedy that raises is left out; what it raised is
    added to `notes`, where a list is given.
    """
    notes = [] if notes is None else notes
    try:
        causes = find_causes(evidence, catalogue.all_causes(), notes)
        return causes, propose_remedies(evidence, causes, notes)
    except Exception as error:
        notes.append(f"the diagnosis failed: {type(error).__name__}: {error}")
        return (), ()


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
    by_slug = {cause.slug: cause for cause in catalogue.all_causes()}
    close = [cause for cause in causes if cause.confidence >= causes[0].confidence - BEHIND]
    asked: list[tuple[str, str]] = []
    for rank, cause in enumerate(close):
        asked += [(slug, cause.slug) for slug in by_slug[cause.slug].remedies[: 2 if rank == 0 else 1]]
    for cause in close:
        asked += [(slug, cause.slug) for slug in by_slug[cause.slug].remedies]
    proposed: dict[str, RemedyProposed] = {}
    for slug, cause_slug in asked:
        remedy = catalogue.remedy(slug)
        if remedy is None or slug in proposed:
            continue
        try:
            proposed[slug] = remedy.propose(evidence, cause_slug)
        except Exception as error:
            notes.append(f"remedy {slug} could not be fitted: {type(error).__name__}: {error}")
            proposed[slug] = RemedyProposed(remedy.slug, remedy.title, None, None)
    return tuple(proposed.values())
