"""The engine ranks, never raises, and says nothing where nothing is known."""

import subprocess
import sys
from typing import Any

import pytest

from whynan.diagnosis import catalogue
from whynan.diagnosis.catalogue import Cause, Match, diagnose, find_causes
from whynan.diagnosis.growth import growth_of
from whynan.records import Evidence, History, ReplayResult

from .synthetic import evidence, tensor, zeros


class Breaks(Cause):
    """Raises."""

    slug, title, group, remedies = "breaks", "breaks", "math", ()

    def match(self, evidence: Evidence) -> Match | None:
        raise ZeroDivisionError("oops")


class Sure(Cause):
    """Is always sure, and beyond."""

    slug, title, group, remedies = "sure", "sure", "math", ()

    def match(self, evidence: Evidence) -> Match | None:
        return Match(1.5, "It is so.")


def test_nothing_known_is_said() -> None:
    assert diagnose(evidence(replay=ReplayResult(False, "none"))) == ((), ())
    assert diagnose(evidence("softmax", "forward", tensor(-1, 1)))[0] == ()


def test_causes_are_ranked_and_remedies_without_duplicates() -> None:
    causes, remedies = diagnose(evidence("log", "backward", zeros(), through_where=True, code="y = torch.log(x)"))
    assert [cause.slug for cause in causes] == ["where-gradient-trap", "log-of-zero"]
    assert [cause.confidence for cause in causes] == sorted((c.confidence for c in causes), reverse=True)
    slugs = [remedy.slug for remedy in remedies]
    assert slugs[0] == "double-where" and len(slugs) == len(set(slugs))
    assert remedies[0].where == "train.py:57" and remedies[0].proved is None


def test_a_cause_that_raises_is_left_out_and_noted() -> None:
    notes: list[str] = []
    found = find_causes(evidence("log", "forward", zeros()), (Breaks(), Sure()), notes)
    assert [cause.slug for cause in found] == ["sure"] and found[0].confidence <= 1
    assert notes == ["cause breaks could not be judged: ZeroDivisionError: oops"]


def test_a_broken_catalogue_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise OSError("gone")

    monkeypatch.setattr(catalogue, "all_causes", fail)
    notes: list[str] = []
    assert diagnose(evidence(), notes) == ((), ())
    assert notes == ["the diagnosis failed: OSError: gone"]


@pytest.mark.parametrize("op", ["log", "div", "sqrt", "pow", "mm", "exp", "softmax", "acos", "nll_loss", "std", "?"])
@pytest.mark.parametrize("phase", ["data", "forward", "backward", "optimizer"])
def test_no_evidence_makes_it_raise(op: str, phase: str) -> None:
    nothing = tensor(None, None, ())
    for inputs in ((), (nothing,), (tensor(None, None, (0,)),), (zeros(), nothing), (tensor(dtype="int64"),)):
        for given in (
            evidence(op, phase, *inputs, code=None),
            evidence(op, phase, *inputs, output=None, function=None),
        ):
            notes: list[str] = []
            diagnose(given, notes)
            assert not notes


def test_growth_is_told_from_a_jump() -> None:
    steady = (1.0, 1.1, 0.9) * 10
    growing = growth_of(evidence(history=History(loss=tuple(2.0**i for i in range(40)))))
    assert growing.diverged and not growing.jumped and growing.n_risen > 10
    jumped = growth_of(evidence(history=History(grad_norm=(*steady, 1e8, float("inf")))))
    assert jumped.jumped and not jumped.diverged
    assert not growth_of(evidence(history=History(loss=steady, grad_norm=steady))).large
    assert not growth_of(evidence(history=History(loss=(float("nan"),)))).large
    assert not growth_of(evidence()).large


def test_a_loss_near_zero_that_wobbles_has_not_grown() -> None:
    wobble = tuple(1e-6 for _ in range(30)) + (0.5, 0.4, 0.3, 0.2, 0.6)
    assert not growth_of(evidence(history=History(loss=wobble))).large


def test_diagnosis_imports_no_framework() -> None:
    code = "import sys, whynan.diagnosis.catalogue as e; e.all_causes(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
