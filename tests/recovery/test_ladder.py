"""The mildest intervention first, stronger ones where incidents keep coming, an end at the limit."""

from whynan.recovery import Ladder, Limits


def test_a_sample_that_is_known_is_dropped() -> None:
    assert Ladder().next(3, "bad-input-values", has_sample=True) == "drop-sample"


def test_a_step_without_a_guilty_sample_is_skipped() -> None:
    assert Ladder().next(3, "division-by-zero", has_sample=False) == "skip-batch"


def test_where_the_steps_before_are_to_blame_the_run_goes_back() -> None:
    ladder = Ladder()
    made = [ladder.next(step, "learning-rate-too-high", has_sample=True) for step in range(100, 110)]
    assert made == ["roll-back"] * 3 + ["clip-gradients"] * 3 + ["lower-learning-rate"] * 3 + ["stop"]


def test_incidents_far_apart_are_answered_mildly() -> None:
    ladder = Ladder(Limits(window=10))
    assert {ladder.next(step, "exploding-gradient", has_sample=False) for step in range(0, 500, 50)} == {"roll-back"}


def test_when_nearly_every_step_fails_skipping_is_no_answer() -> None:
    ladder = Ladder(Limits(window=20))
    made = [ladder.next(step, "log-of-zero", has_sample=False) for step in range(100, 130)]
    assert made[:18] == ["skip-batch"] * 18
    assert made[18] != "skip-batch"


def test_a_run_is_not_ended_for_steps_that_can_be_skipped() -> None:
    ladder = Ladder(Limits(window=20, most=60))
    made = [ladder.next(step, "sqrt-at-zero", has_sample=False) for step in range(100, 165)]
    assert "stop" not in made[:60]
    assert set(made[60:]) == {"stop"}


def test_one_step_in_two_may_be_skipped_for_ever() -> None:
    ladder = Ladder(Limits(most=10_000))
    assert {ladder.next(step, "log-of-zero", has_sample=False) for step in range(0, 2000, 2)} == {"skip-batch"}


def test_the_user_sets_order_and_limits() -> None:
    ladder = Ladder(Limits(order=("lower-learning-rate",), patience=1, most=5))
    assert ladder.next(0, "bad-input-values", has_sample=True) == "lower-learning-rate"
    assert ladder.next(1, "bad-input-values", has_sample=True) == "stop"
    assert Ladder(Limits(most=0)).next(0, "log-of-zero", has_sample=False) == "stop"
