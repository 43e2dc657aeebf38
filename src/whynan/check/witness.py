"""A witness: values within the data's ranges, and parameters near where they are, for which a suspect really fails.

As files its values are safetensors, all else is JSON; beside them what a step did when it was run on them again.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import whynan
from whynan.check.hazards import Hazard
from whynan.errors import WitnessError

if TYPE_CHECKING:
    from whynan.check.suspects import CheckResult


@dataclass(frozen=True)
class Witness:
    """How a search has ended. `changes` tells for each leaf what was done to it."""

    outcome: Literal["found", "remote", "not found", "not searched"]
    """`remote`: it fails, but on a batch that is wholly unlike every sample that was seen."""
    how: str = ""
    tries: int = 0
    changes: tuple[str, ...] = ()
    effect: str = ""
    """What became non-finite: the loss, a gradient, or the operation's own value."""
    leaves: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The values themselves, by the leaf's number, as arrays; for replaying."""
    about: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)
    """For each of them how to find the leaf in another run."""
    graph: int = 0
    """Which of the recorded steps."""
    seed: int = 0

    @property
    def found(self) -> bool:
        return self.outcome == "found"

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "how": self.how,
            "tries": self.tries,
            "changes": list(self.changes),
            "effect": self.effect,
        }


SCHEMA = "whynan.witness/1"
ABOUT, VALUES = "witness.json", "values.safetensors"
_MISSING = 'a witness needs safetensors: pip install "whynan[capsule]"'


@dataclass(frozen=True)
class Saved:
    """A witness that was read from a folder. `leaves` describes the tensors of `values`, by name."""

    folder: Path
    framework: str
    suspect: dict[str, Any]
    hazard: Hazard
    graph: int
    seed: int
    leaves: dict[str, dict[str, Any]]
    values: dict[str, Any]


@dataclass
class Replayed:
    before: str
    """The loss on the script's own batch."""
    after: str
    """The loss on the witness."""
    operation: str | None = None
    """What the suspect's operation has given; None where this run has no such operation any more."""
    non_finite: list[str] = field(default_factory=list)
    """What of the step came out non-finite: the loss, gradients by name."""
    changes: tuple[str, ...] = ()

    @property
    def has_failed(self) -> bool:
        return bool(self.non_finite)


def write(result: "CheckResult", folder: Path, argv: Sequence[str]) -> list[Path]:
    """Write each witness that was found into a folder of its own; returns these. OSError where that can't be done."""
    written = []
    for rank, suspect in enumerate(result.suspects, 1):
        witness = suspect.witness
        if witness is None or not witness.leaves or witness.outcome not in ("found", "remote"):
            continue
        place = folder / f"{rank:02}-{re.sub(r'[^a-z0-9-]', '', suspect.cause)}-line-{suspect.place.line}"
        place.mkdir(parents=True, exist_ok=True)
        about = {
            "schema": SCHEMA,
            "whynan": whynan.__version__,
            "framework": result.framework,
            "script": result.script,
            "argv": list(argv),
            "suspect": suspect.to_json(rank),
            "hazard": {f.name: getattr(suspect.hazard, f.name) for f in fields(Hazard)},
            "graph": witness.graph,
            "seed": witness.seed,
            "leaves": witness.about,
        }
        _put(place / VALUES, lambda path, values=witness.leaves: _save(values, path, result.framework))
        text = json.dumps(about, indent=1, default=list) + "\n"
        _put(place / ABOUT, lambda path, text=text: path.write_text(text, encoding="utf-8"))
        written.append(place)
    return written


def _put(place: Path, save: Any) -> None:
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    save(temporary)
    os.replace(temporary, place)


def _save(values: dict[str, Any], path: Path, framework: str | None) -> None:
    try:
        if framework == "torch":
            from safetensors.torch import save_file
        else:
            from safetensors.numpy import save_file
    except ImportError:
        raise WitnessError(_MISSING) from None
    save_file(values, str(path))


def read(folder: Path) -> Saved:
    """Read a witness; raises WitnessError where the folder does not hold one."""
    if not (folder / ABOUT).is_file():
        inside = sorted(place.parent.name for place in folder.glob(f"*/{ABOUT}")) if folder.is_dir() else []
        hint = f"; it holds {', '.join(inside)}: name one of them" if inside else ""
        raise WitnessError(
            f"{folder} holds no {ABOUT}{hint or '; `whynan check --save DIR train.py` writes witnesses'}"
        )
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["schema"] != SCHEMA:
            raise WitnessError(f"{folder / ABOUT} is of schema {about['schema']}, and {SCHEMA} can be read")
        hazard = Hazard(**{**about["hazard"], "remedies": tuple(about["hazard"]["remedies"])})
        values = _load(folder / VALUES, about["framework"])
        return Saved(
            folder, about["framework"], about["suspect"], hazard, about["graph"], about["seed"], about["leaves"], values
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WitnessError(f"{folder} holds no witness that can be read: {type(error).__name__}: {error}") from None


def _load(path: Path, framework: str) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError

        if framework == "torch":
            from safetensors.torch import load_file
        else:
            from safetensors.numpy import load_file
    except ImportError:
        raise WitnessError(_MISSING) from None
    try:
        return dict(load_file(str(path)))
    except SafetensorError as error:
        raise WitnessError(f"{path} can't be read: {error}") from None
