"""What came of trying remedies on the failing step, and what that means for a diagnosis."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from whynan.diagnosis import catalogue
from whynan.records.experiment import NOTHING
from whynan.records.incident import CauseFound, RemedyProposed

Kind = Literal["confirmed", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """One remedy, tried.

    `confirmed`: with it, and nothing else changed, the same steps stay finite. `refuted`: they fail all the same.
    `inconclusive`: the change could not be applied, or something else ended the attempt. `outcome` says what was
    measured. `change` is the change in words; `patch` one line of code where it can be said in one.
    """

    slug: str
    kind: Kind
    outcome: str
    change: str | None = None
    patch: str | None = None
    measured: "Measured | None" = None

    @property
    def proved(self) -> bool | None:
        """Return the verdict as a report has it."""
        return {"confirmed": True, "refuted": False, "inconclusive": None}[self.kind]


@dataclass(frozen=True)
class Measured:
    """What an attempt showed. `failure` is None where it stayed finite, else what was non-finite."""

    n_steps: int
    loss: float | None = None
    grad_norm: float | None = None
    failure: str | None = None
    error: str | None = None
    n_applied: int | None = None
    """How often the change took hold, where that is counted: a change that never did proves nothing."""
    growth: float | None = None
    """The last loss over the first, where several steps were run."""


def failure_of(what: str, name: str, kind: str) -> str:
    """Return a failure in words: "val_loss is nan", "the gradient fc.weight is inf"."""
    return f"{name or what} is {kind}" if what in ("loss", name) else f"the {what} {name} is {kind}".replace("  ", " ")


def judge(slug: str, change: str, measured: Measured, patch: str | None = None) -> Verdict:
    """Return the verdict on one attempt."""
    if measured.n_applied == 0:
        return Verdict(slug, "inconclusive", f"{change}: {NOTHING}", change, patch, measured)
    if measured.failure is not None:
        return Verdict(slug, "refuted", f"{change}: {measured.failure} all the same", change, patch, measured)
    if measured.error is not None:
        return Verdict(slug, "inconclusive", f"{change}: the step ended in {measured.error}", change, patch, measured)
    if measured.growth is not None and measured.growth > 1e3:
        grown = (
            f"{change}: still finite after {_steps(measured.n_steps)}, but the loss grew {measured.growth:.3g} times"
        )
        return Verdict(slug, "refuted", grown, change, patch, measured)
    return Verdict(slug, "confirmed", f"{change}: finite over {_measured(measured)}", change, patch, measured)


def _measured(measured: Measured) -> str:
    words = [_steps(measured.n_steps)]
    if measured.loss is not None:
        words.append(f"loss {measured.loss:.4g}")
    if measured.grad_norm is not None:
        words.append(f"gradient norm {measured.grad_norm:.3g}")
    return ", ".join(words)


def _steps(count: int) -> str:
    return "the step" if count <= 1 else f"{count} steps"


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
