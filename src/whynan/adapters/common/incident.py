"""What is the same in each adapter from a step that was run again to its incident."""

from collections.abc import Callable

from whynan.adapters.common.explain import Step, evidence_of, incident_of
from whynan.adapters.common.positions import calling_frame, source_line
from whynan.adapters.common.prove import Bench, prove
from whynan.adapters.common.run import Run, action_of
from whynan.records import Evidence, Incident, ReplayResult, Sample, Symptom
from whynan.report.progress import Progress

Found = tuple[tuple[Sample, ...], str | None]


def explained(
    run: Run,
    step: Step,
    is_finite: bool,
    samples: Callable[[], Found],
    bench: Callable[[], Bench],
    deadline: float,
    progress: Progress,
) -> Incident:
    """Look for the sample, ask the catalogue, try the remedies; a replay that was finite has nothing to try."""
    if not is_finite:
        progress.stage("looking for the sample")
        step.samples, note = samples()
        step.notes += [note] if note else []
    incident, evidence = concluded(run, step)
    if run.options.prove and not is_finite:
        incident = prove(incident, evidence, bench(), deadline, progress)
    return incident


def concluded(run: Run, step: Step) -> tuple[Incident, Evidence]:
    """Return the incident that a step is, and the evidence."""
    evidence, _ = evidence_of(step)
    policy = run.options.policy
    return incident_of(step, evidence, policy, action_of(policy, step.symptom.stage)), evidence


def unexplained(run: Run, symptom: Symptom, framework: str, why: str | Exception) -> Incident:
    """Return the incident of a step that could not be run again, or that whynan failed at."""
    if isinstance(why, Exception):
        why = f"whynan failed: {type(why).__name__}: {why}"
    line = source_line(calling_frame())
    return concluded(run, Step(symptom, ReplayResult(False, "none", why), framework, line=line))[0]


def replayed(is_finite: bool, error: BaseException | None, otherwise: str) -> ReplayResult:
    """Return what came of running a step again; `otherwise` says why, where it is finite now."""
    if error is not None:
        why = f"the step ended with {type(error).__name__}: {str(error)[:200]}"
        return ReplayResult(not is_finite, "none", why)
    return ReplayResult(not is_finite, "closure", otherwise if is_finite else None)
