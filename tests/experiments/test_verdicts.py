"""What a measurement is worth, and what verdicts do to a diagnosis."""

from whynan.experiments import (
    Measured,
    Verdict,
    best_verdicts,
    conclude_causes,
    conclude_remedies,
    failure_of,
    judge,
    rows,
)
from whynan.records import Incident, ReplayResult, Symptom
from whynan.records.recording import CauseFound, RemedyProposed


def test_finite_steps_confirm() -> None:
    verdict = judge("clip-gradients", "clipped at 1", Measured(n_steps=40, loss=0.25, grad_norm=3.1))
    assert verdict.proved is True
    assert verdict.outcome == "clipped at 1: finite over 40 steps, loss 0.25, gradient norm 3.1"


def test_a_failure_refutes_and_is_named() -> None:
    verdict = judge("clamp-or-eps", "clamped", Measured(n_steps=1, failure="the gradient fc.weight is nan"))
    assert verdict.proved is False
    assert "the gradient fc.weight is nan" in verdict.outcome


def test_what_never_took_hold_proves_nothing() -> None:
    assert judge("mask-fix", "masked", Measured(n_steps=1, n_applied=0)).proved is None


def test_an_exception_proves_nothing() -> None:
    assert judge("stable-loss", "from logits", Measured(n_steps=1, error="TypeError: ...")).proved is None


def test_a_loss_that_only_takes_longer_to_overflow_is_no_cure() -> None:
    assert judge("lower-learning-rate", "lr / 10", Measured(n_steps=50, loss=1e20, growth=1e19)).proved is False


def test_one_strength_that_helps_is_enough() -> None:
    weak = Verdict("lower-learning-rate", "refuted", "divided by 10: the loss is inf all the same")
    strong = Verdict("lower-learning-rate", "confirmed", "divided by 100: finite")
    assert best_verdicts([weak, strong]) == {"lower-learning-rate": strong}
    assert best_verdicts([strong, weak]) == {"lower-learning-rate": strong}


def _remedy(slug: str) -> RemedyProposed:
    return RemedyProposed(slug, slug, None, None)


def test_remedies_that_helped_come_first_and_those_that_did_not_last() -> None:
    verdicts = {
        "warmup": Verdict("warmup", "refuted", "no"),
        "clip-gradients": Verdict("clip-gradients", "confirmed", "yes"),
    }
    ordered = conclude_remedies((_remedy("warmup"), _remedy("better-init"), _remedy("clip-gradients")), verdicts)
    assert [(remedy.slug, remedy.proved) for remedy in ordered] == [
        ("clip-gradients", True),
        ("better-init", None),
        ("warmup", False),
    ]


def _cause(slug: str, confidence: float) -> CauseFound:
    return CauseFound(slug, confidence, slug, "", ())


def test_a_cause_follows_the_verdict_on_its_own_first_remedy() -> None:
    causes = (_cause("bad-initialization", 0.6), _cause("exploding-gradient", 0.5))
    verdicts = {
        "better-init": Verdict("better-init", "refuted", "the loss is inf all the same"),
        "clip-gradients": Verdict("clip-gradients", "confirmed", "finite over 20 steps"),
    }
    first, second = conclude_causes(causes, verdicts)
    assert (first.slug, second.slug) == ("exploding-gradient", "bad-initialization")
    assert first.confidence > 0.5 and second.confidence < 0.6
    assert any("finite over 20 steps" in fact for fact in first.evidence)


def test_what_was_not_tried_changes_nothing() -> None:
    causes = (_cause("log-of-zero", 0.9),)
    assert conclude_causes(causes, {}) == causes


def test_the_same_change_at_two_places_of_a_line_is_told_apart() -> None:
    old = "-    loss = -(y * log(p) + (1 - y) * log(1 - p)).mean()\n"
    news = (old.replace("log(p)", "log(maximum(p, 1e-7))"), old.replace("log(1 - p)", "log(maximum(1 - p, 1e-7))"))
    patches = [f"--- a/t.py\n+++ b/t.py\n@@ -1 +1 @@\n{old}+{new[1:]}" for new in news]
    one = Verdict("clamp-or-eps", "refuted", "clamped: loss is nan all the same", "clamped", patches[0])
    other = Verdict("clamp-or-eps", "confirmed", "clamped: finite", "clamped", patches[1])
    incident = Incident(Symptom("loss", "loss", "nan", 3), ReplayResult(True, "closure"))
    changes = [row.change for row in rows(incident, [one, other])]
    assert changes == [
        "nothing: the step as it was",
        "clamped: maximum(p, 1e-7)",
        "clamped: maximum(1 - p, 1e-7)",
    ]
    assert [row.change for row in rows(incident, [one])][1] == "clamped"


def test_a_failure_is_named_once() -> None:
    assert failure_of("loss", "loss", "nan") == "loss is nan"
    assert failure_of("loss", "val_loss", "nan") == "val_loss is nan"
    assert failure_of("gradient", "fc.weight", "inf") == "the gradient fc.weight is inf"
