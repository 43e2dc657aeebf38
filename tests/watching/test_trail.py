"""What watching has read of the last steps, as a look back."""

from whynan.watching import MOST_STEPS, Trail


def test_values_stand_at_their_steps_and_gaps_stay_gaps() -> None:
    trail = Trail()
    for step in (0, 1, 4):
        trail.note(step, "grad_norm", {"weight": step + 1.0})
    trail.note(1, "terms", {"box": 0.5, "rate": 3.0})
    back = trail.look_back(4, {"box": float("nan")}, "no reason")
    assert back is not None and back.steps == (0, 1, 4)
    assert back.layers == ("weight",) and back.grad_norm == ((1.0, 2.0, 5.0),)
    assert back.update_ratio == () and back.activation == ()
    assert list(back.terms) == ["box"] and back.terms["box"][:2] == (None, 0.5)
    assert back.note is not None and "left out" in back.note and "no reason" in back.note


def test_steps_that_a_recovery_has_undone_are_forgotten() -> None:
    trail = Trail()
    for step in (0, 1, 2, 3, 1):
        trail.note(step, "grad_norm", {"weight": float(step)})
    back = trail.look_back(9, {}, "")
    assert back is not None and back.steps == (0, 1)


def test_only_what_is_trained_has_updates() -> None:
    trail = Trail()
    for step in range(2):
        trail.note(step, "update_ratio", {"w": 0.1, "dw": 9.0})
    trail.weights = {"w"}
    back = trail.look_back(2, {}, "")
    assert back is not None and back.layers == ("w",)


def test_one_step_shows_nothing_and_many_are_the_last_ones() -> None:
    trail = Trail()
    trail.note(0, "grad_norm", {"weight": 1.0})
    assert trail.look_back(0, {}, "") is None
    for step in range(1, 500):
        trail.note(step, "grad_norm", {"weight": 1.0})
    back = trail.look_back(500, {}, "")
    assert back is not None and back.steps == tuple(range(500 - MOST_STEPS, 500))
