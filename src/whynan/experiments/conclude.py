"""What verdicts mean for a diagnosis: remedies that helped come first, causes follow the remedies that were tried."""

from collections.abc import Iterable
from dataclasses import replace

from whynan.diagnosis import catalogue
from whynan.experiments.verdict import Verdict
from whynan.records.incident import CauseFound, RemedyProposed

_N_OWN = 2
"""A cause's first remedy is what speaks for it, or the second where the first could not be tried."""


def best_verdicts(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    """Return one verdict for each remedy: a remedy may be tried in several strengths, and one that helps is enough."""
    order = {"confirmed": 0, "refuted": 1, "inconclusive": 2}
    found: dict[str, Verdict] = {}
    for verdict in verdicts:
        known = found.get(verdict.slug)
        if known is None or order[verdict.kind] < order[known.kind]:
            found[verdict.slug] = verdict
    return found


def conclude_remedies(proposed: tuple[RemedyProposed, ...], verdicts: dict[str, Verdict]) -> tuple[RemedyProposed, ...]:
    """Return the remedies with what was tried: those that helped first, those that did not last."""
    found = []
    for remedy in proposed:
        verdict = verdicts.get(remedy.slug)
        if verdict is not None:
            patch = verdict.patch or remedy.patch
            remedy = replace(remedy, proved=verdict.proved, outcome=verdict.outcome, patch=patch)
        found.append(remedy)
    rank = {True: 0, None: 1, False: 2}
    return tuple(sorted(found, key=lambda remedy: rank[remedy.proved]))


def conclude_causes(causes: tuple[CauseFound, ...], verdicts: dict[str, Verdict]) -> tuple[CauseFound, ...]:
    """Return the causes with confidences that follow the verdicts on their own first remedies.

    A guard helps against several causes of one kind, and a smaller learning rate against much: a verdict moves a
    confidence, it does not overrule what was measured.
    """
    known = {cause.slug: cause for cause in catalogue.all_causes()}
    found = []
    for cause in causes:
        tried = [verdicts[slug] for slug in known[cause.slug].remedies[:_N_OWN] if slug in verdicts]
        own = [verdict for verdict in tried if verdict.kind != "inconclusive"][:1]
        kinds = {verdict.kind for verdict in own}
        confidence = cause.confidence
        evidence = cause.evidence
        if "confirmed" in kinds:
            confidence = 1 - (1 - confidence) * 0.6
            evidence = (*evidence, f"tried, {own[0].slug}: {own[0].outcome}")
        elif "refuted" in kinds:
            confidence *= 0.7
            evidence = (*evidence, f"tried, {own[0].slug}: {own[0].outcome}")
        found.append(replace(cause, confidence=min(confidence, 0.99), evidence=evidence))
    return tuple(sorted(found, key=lambda cause: -cause.confidence))
