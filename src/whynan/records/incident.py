"""One incident: a step that went non-finite, from its symptom to what was done about it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from whynan.records.experiment import Experiment
from whynan.records.lookback import LookBack
from whynan.records.numbers import to_jsonable
from whynan.records.op import Op, PathStep
from whynan.records.picture import Picture

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
