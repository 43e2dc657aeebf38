"""Everything saved about one run: its incidents, experiments, pictures, the steps before; what renderers render."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from whynan.records.op import Op, PathStep, to_jsonable

ExperimentVerdict = Literal["control", "confirmed", "refuted", "inconclusive"]
NOTHING = "there was nothing to apply it to"
"""The outcome of a change that could not be made."""


@dataclass(frozen=True)
class Experiment:
    """What was changed and what came of it.

    `n_steps` are the steps that were run, `finite` whether all of them stayed so (None where the attempt says nothing).
    `loss` and `grad_norm` are those of the last step of a finite attempt.
    """

    change: str
    verdict: ExperimentVerdict
    remedy: str | None = None
    n_steps: int | None = None
    finite: bool | None = None
    loss: float | None = None
    grad_norm: float | None = None
    outcome: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "change": self.change,
            "verdict": self.verdict,
            "remedy": self.remedy,
            "n_steps": self.n_steps,
            "finite": self.finite,
            "loss": to_jsonable(self.loss),
            "grad_norm": to_jsonable(self.grad_norm),
            "outcome": self.outcome,
        }


@dataclass(frozen=True)
class LookBack:
    """One value for each layer and step, or for each loss term and step; None where it was not seen.

    `steps` are the steps' numbers; `layers` the modules' names in their order. `grad_norm` is the L2 norm of a layer's
    gradient, `update_ratio` the norm of its update over that of its weights, `activation` the largest magnitude of what
    it put out; each is indexed [layer][step]. `terms` are the summands of the loss by name.
    """

    steps: tuple[int, ...]
    layers: tuple[str, ...] = ()
    grad_norm: tuple[tuple[float | None, ...], ...] = ()
    update_ratio: tuple[tuple[float | None, ...], ...] = ()
    activation: tuple[tuple[float | None, ...], ...] = ()
    terms: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    note: str | None = None
    """How it was measured, where the steps were not run once more."""

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": list(self.steps),
            "layers": list(self.layers),
            "grad_norm": _rows(self.grad_norm),
            "update_ratio": _rows(self.update_ratio),
            "activation": _rows(self.activation),
            "terms": {name: _row(values) for name, values in self.terms.items()},
            "note": self.note,
        }


def _rows(rows: tuple[tuple[float | None, ...], ...]) -> list[list[Any]]:
    return [_row(row) for row in rows]


def _row(row: tuple[float | None, ...]) -> list[Any]:
    """Round to four digits: a colour and a line of a plot show no more, and the report stays small."""
    return [None if value is None else to_jsonable(float(f"{value:.4g}")) for value in row]


BoxKind = Literal["target", "proposal", "anomaly"]


@dataclass(frozen=True)
class Box:
    """A box as x1, y1, x2, y2 in pixels of its picture; `note` says what is wrong with an anomalous one."""

    corners: tuple[float, float, float, float]
    kind: BoxKind
    label: str | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "box": [to_jsonable(value) for value in self.corners],
            "kind": self.kind,
            "label": self.label,
            "note": self.note,
        }


@dataclass(frozen=True)
class Picture:
    """An image that the network saw. `png` is the file's content; without one the boxes are drawn on an empty ground.

    `what` is "sample" or "proposals", `moment` says when ("failing step", "step 0"), `facts` what was measured on it.
    """

    what: Literal["sample", "proposals"]
    title: str
    width: int
    height: int
    png: bytes | None = None
    overlay: bytes | None = None
    """A second image of the same size, transparent where it has nothing to say: a mask."""
    boxes: tuple[Box, ...] = ()
    facts: tuple[str, ...] = ()
    step: int | None = None

    def to_json(self, stem: str) -> dict[str, Any]:
        """Return what report.json holds; the files are `stem`.png and `stem`-mask.png."""
        return {
            "what": self.what,
            "title": self.title,
            "step": self.step,
            "width": self.width,
            "height": self.height,
            "file": f"{stem}.png" if self.png is not None else None,
            "overlay": f"{stem}-mask.png" if self.overlay is not None else None,
            "boxes": [box.to_json() for box in self.boxes],
            "facts": list(self.facts),
        }

    def files(self, stem: str) -> dict[str, bytes]:
        found = {f"{stem}.png": self.png, f"{stem}-mask.png": self.overlay}
        return {name: content for name, content in found.items() if content is not None}


Stage = Literal["train", "validation"]
What = Literal["loss", "gradient", "parameter", "buffer", "input"]
Method = Literal["re-yield", "closure", "rerun", "none"]


@dataclass(frozen=True)
class Symptom:
    """What is non-finite where the user sees it. `value` is "nan", "inf", "-inf", or a number where a run diverges."""

    what: What
    name: str
    value: str
    step: int
    epoch: int | None = None
    stage: Stage = "train"
    detail: str | None = None
    """How it was noticed: "before backward at train.py:57", "after optimizer.step()", "the script left its loop"."""

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "name": self.name, "value": self.value, "detail": self.detail}


@dataclass(frozen=True)
class ReplayResult:
    """Whether the step ran again with the same outcome, by which method, and why not."""

    reproduced: bool
    method: Method
    why: str | None = None
    not_restored: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "reproduced": self.reproduced,
            "method": self.method,
            "why": self.why,
            "not_restored": list(self.not_restored),
        }


@dataclass(frozen=True)
class Sample:
    """An offending sample: its place in the batch, its index in the dataset, its file where one is known."""

    position: int | None
    index: int | None
    path: str | None
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"position": self.position, "index": self.index, "path": self.path, "why": self.why}


@dataclass(frozen=True)
class LossTerm:
    """One summand of the loss by the name that the script gives it."""

    name: str
    value: float
    first_nonfinite: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": to_jsonable(self.value), "first_nonfinite": self.first_nonfinite}


@dataclass(frozen=True)
class CauseFound:
    """A cause that the evidence supports, with the facts a reader can check."""

    slug: str
    confidence: float
    title: str
    explanation: str
    evidence: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "slug": self.slug,
            "confidence": round(self.confidence, 3),
            "title": self.title,
            "explanation": self.explanation,
            "evidence": list(self.evidence),
        }


@dataclass(frozen=True)
class RemedyProposed:
    """A change that should help. `proved` is None where it was not tried."""

    slug: str
    title: str
    where: str | None
    patch: str | None
    proved: bool | None = None
    outcome: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "slug": self.slug,
            "title": self.title,
            "proved": self.proved,
            "outcome": self.outcome,
            "where": self.where,
            "patch": self.patch,
        }


@dataclass(frozen=True)
class Incident:
    """All that is known of one incident."""

    symptom: Symptom
    replay: ReplayResult
    origin: Op | None = None
    path: tuple[PathStep, ...] = ()
    samples: tuple[Sample, ...] = ()
    loss_terms: tuple[LossTerm, ...] = ()
    causes: tuple[CauseFound, ...] = ()
    remedies: tuple[RemedyProposed, ...] = ()
    policy: str = "stop"
    action: str = ""
    notes: tuple[str, ...] = field(default=())
    """Whatever an honest report must add: what was ruled out, what could not be put back, what is only likely."""
    experiments: tuple[Experiment, ...] = ()
    """The control first, then what was tried, in that order."""
    look_back: LookBack | None = None
    pictures: tuple[Picture, ...] = ()

    def to_json(self, number: int = 0) -> dict[str, Any]:
        """Return the incident as report.json has it; its pictures' files are named after its `number`."""
        return {
            "step": self.symptom.step,
            "epoch": self.symptom.epoch,
            "stage": self.symptom.stage,
            "symptom": self.symptom.to_json(),
            "replay": self.replay.to_json(),
            "origin": self.origin.to_json() if self.origin else None,
            "path": [step.to_json() for step in self.path],
            "samples": [sample.to_json() for sample in self.samples],
            "loss_terms": [term.to_json() for term in self.loss_terms],
            "causes": [cause.to_json() for cause in self.causes],
            "remedies": [remedy.to_json() for remedy in self.remedies],
            "action": {"policy": self.policy, "detail": self.action},
            "notes": list(self.notes),
            "experiments": [experiment.to_json() for experiment in self.experiments],
            "look_back": self.look_back.to_json() if self.look_back else None,
            "pictures": [picture.to_json(picture_stem(number, k)) for k, picture in enumerate(self.pictures)],
        }


def picture_stem(incident: int, picture: int) -> str:
    """Return the name of a picture's file, without its ending."""
    return f"incident-{incident}-picture-{picture}"


SCHEMA = "whynan.report/1"
Outcome = Literal["healthy", "non-finite", "diverging", "script-error"]


@dataclass(frozen=True)
class RunInfo:
    """The run as a whole. `seconds` is wall time, `steps` the optimizer steps that were made."""

    argv: tuple[str, ...]
    framework: str | None
    versions: dict[str, str]
    device: str | None
    started: str
    seconds: float
    steps: int

    def to_json(self) -> dict[str, Any]:
        return {
            "argv": list(self.argv),
            "framework": self.framework,
            "versions": self.versions,
            "device": self.device,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "steps": self.steps,
        }


@dataclass(frozen=True)
class Recording:
    """One run and its incidents. `skipped` are incidents that the script itself handled and survived."""

    version: str
    run: RunInfo
    outcome: Outcome
    incidents: tuple[Incident, ...] = ()
    skipped: tuple[Incident, ...] = ()
    history: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Per step: "loss", "grad_norm", "lr"; written to history.npz beside the report."""
    error: str | None = None
    """The script's own exception, where it ended with one that is no incident."""

    def files(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for number, incident in enumerate(self.incidents):
            for k, picture in enumerate(incident.pictures):
                found |= picture.files(picture_stem(number, k))
        return found

    def to_json(self) -> dict[str, Any]:
        data = {
            "schema": SCHEMA,
            "whynan": self.version,
            "run": self.run.to_json(),
            "outcome": self.outcome,
            "incidents": [incident.to_json(number) for number, incident in enumerate(self.incidents)],
            "skipped": [replace(incident, pictures=()).to_json() for incident in self.skipped],
            "history": {"file": "history.npz", "series": sorted(self.history)} if self.history else None,
            "error": self.error,
        }
        return to_jsonable(data)  # type: ignore[no-any-return]
