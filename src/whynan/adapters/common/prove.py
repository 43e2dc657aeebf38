"""Remedies tried on the failing step, or on the steps from a saved state up to it: each changes one thing."""

import difflib
import linecache
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from whynan.adapters.common.dialect import Change, changes_for, part_changes
from whynan.diagnosis import facts
from whynan.diagnosis.rewrite import part_for, patch_for
from whynan.experiments import Measured, Verdict, best_verdicts, conclude_causes, conclude_remedies, judge, rows
from whynan.launch.host import tell, user_codes
from whynan.records import Evidence, Incident
from whynan.report import Progress

_SHARE = 0.75
"""Of the incident's time, as far as experiments may go."""
_MAX_CHANGES = 4
_ENOUGH = 3


class Bench(Protocol):
    """What an adapter can try. Each returns what it measured, None where it cannot try it."""

    def without_rows(self, rows: list[int]) -> Measured | None:
        """Run the failing step with other rows in the place of these."""

    def with_other_targets(self, rows: list[int]) -> Measured | None:
        """Run the failing step with other rows' targets for these."""

    def with_source(self, file: str, source: str) -> Measured | None:
        """Run the failing step with one of the user's files changed."""

    def with_rate(self, factor: float) -> Measured | None:
        """Run the steps up to the failing one with smaller updates."""

    def clipped(self, norm: float) -> Measured | None:
        """Run the steps up to the failing one with clipped gradients."""

    def normalized(self) -> Measured | None:
        """Run the steps up to the failing one on standardised data."""

    def in_double(self) -> Measured | None:
        """Run the failing step in higher precision."""

    def with_init(self) -> Measured | None:
        """Run the steps from the first on from weights scaled by their fan-in."""

    def with_eps(self, value: float) -> Measured | None:
        """Run the steps up to the failing one with another eps in the optimizer or the normalisation layers."""


def prove(incident: Incident, evidence: Evidence, bench: Bench, deadline: float, progress: Progress) -> Incident:
    """Return the incident with what was tried: remedies with verdicts, those that helped first."""
    began = time.monotonic()
    until = began + (deadline - began) * _SHARE
    verdicts: list[Verdict] = []
    n_confirmed = 0
    for remedy in incident.remedies:
        if time.monotonic() > until or n_confirmed >= _ENOUGH:
            break
        progress.stage(f"trying {remedy.slug}")
        try:
            for verdict in _tried(remedy.slug, incident, evidence, bench):
                if verdict.kind == "confirmed":
                    verdict = _with_part(verdict, evidence, bench)
                verdicts.append(verdict)
                if verdict.kind == "confirmed":
                    n_confirmed += 1
                    break
                if time.monotonic() > until:
                    break
        except Exception as error:
            tell(f"trying {remedy.slug} failed", error)
    best = best_verdicts(verdicts)
    return replace(
        incident,
        remedies=conclude_remedies(incident.remedies, best),
        causes=conclude_causes(incident.causes, best),
        experiments=rows(incident, verdicts),
    )


def _tried(slug: str, incident: Incident, evidence: Evidence, bench: Bench) -> Iterator[Verdict]:
    rows = [sample.position for sample in incident.samples if sample.position is not None]
    if slug == "drop-sample" and rows:
        yield from _judged(slug, _rows_in_words(incident), lambda: bench.without_rows(rows))
    elif slug == "fix-labels" and rows:
        yield from _judged(slug, "with other rows' targets for the guilty ones", lambda: bench.with_other_targets(rows))
    elif slug == "lower-learning-rate":
        for factor, words in ((0.1, "a tenth"), (0.01, "a hundredth")):
            is_known = evidence.optimizer is not None and evidence.optimizer.lr is not None
            line = patch_for(evidence.framework, slug, _slower(evidence, factor * 10)) if is_known else None
            yield from _judged(slug, f"{words} of the learning rate", partial(bench.with_rate, factor), line)
    elif slug == "clip-gradients":
        yield from _judged(slug, "gradients clipped to a norm of 1", lambda: bench.clipped(1.0))
    elif slug == "normalize-inputs":
        yield from _judged(slug, "inputs standardised over the batches seen", bench.normalized)
    elif slug == "full-precision":
        yield from _judged(slug, "in higher precision", bench.in_double)
    elif slug == "better-init":
        yield from _judged(slug, "from weights scaled by their fan-in", bench.with_init)
    else:
        if slug == "larger-eps":
            yield from _judged(slug, "eps = 1e-3", lambda: bench.with_eps(1e-3))
        yield from _patched(slug, evidence, bench)


def _slower(evidence: Evidence, factor: float) -> Evidence:
    """Return the evidence of a run whose learning rate is smaller: what is proposed is a tenth of that."""
    optimizer = evidence.optimizer
    if optimizer is not None and optimizer.lr is not None:
        optimizer = replace(optimizer, lr=optimizer.lr * factor)
    history = replace(evidence.history, lr=tuple(rate * factor for rate in evidence.history.lr))
    return replace(evidence, optimizer=optimizer, history=history)


def _judged(slug: str, words: str, run: Callable[[], Measured | None], patch: str | None = None) -> Iterator[Verdict]:
    measured = run()
    if measured is not None:
        yield judge(slug, words, measured, patch)


def _patched(slug: str, evidence: Evidence, bench: Bench) -> Iterator[Verdict]:
    place = _place(evidence)
    name = (evidence.origin.source.file if evidence.origin is not None else None) or ""
    for change in changes_for(slug, evidence, *place)[:_MAX_CHANGES] if place is not None else ():
        yield from _judged(slug, change.words, lambda change=change: bench.with_source(change.file, change.source),  # type: ignore[misc]
                           diff_of(change, name))  # fmt: skip


def _place(evidence: Evidence) -> tuple[str, int] | None:
    """Return the origin's file as the interpreter knows it, and its line."""
    source = evidence.origin.source if evidence.origin is not None else None
    if source is None or source.file is None or source.line is None:
        return None
    file = next((name for name in user_codes if Path(name).name == Path(source.file).name), None)
    return (file, source.line) if file is not None else None


def _with_part(verdict: Verdict, evidence: Evidence, bench: Bench) -> Verdict:
    """Return a confirmed verdict that names the part of whynan which makes the step finite too, where one does."""
    place = _place(evidence)
    part = part_for(evidence.framework, verdict.slug, facts.op_of(evidence))
    if place is None or part is None or (part.startswith("whynan.keras") and "keras" not in sys.modules):
        return verdict
    for change in list(part_changes(part, *place))[:_MAX_CHANGES]:
        measured = bench.with_source(change.file, change.source)
        if measured is not None and judge(verdict.slug, "", measured).kind == "confirmed":
            return replace(verdict, outcome=f"{verdict.outcome}; also with {part}")
    return verdict


def diff_of(change: Change, name: str) -> str:
    old = linecache.getlines(change.file)
    new, name = change.source.splitlines(keepends=True), name.lstrip("/")
    return "".join(difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", n=2))


def _rows_in_words(incident: Incident) -> str:
    indices = [sample.index for sample in incident.samples if sample.index is not None]
    return f"without sample {', '.join(map(str, indices))}" if indices else "without the guilty rows of the batch"
