"""Which loops train, and which number of a line is the loss."""

import math
import sys
from pathlib import Path
from types import FrameType

import pytest

from whynan.adapters.common import loops
from whynan.adapters.common.loops import UPDATES, is_bad_loss
from whynan.launch.rewrite import rewrite
from whynan.snapshot import inner_breaks


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("w = w - rate * d", True),
        ("w = (w - 0.01 * dw).astype(w.dtype)", True),
        ("bank.w = np.clip(bank.w - 0.01 * dw, -1, 1)", True),
        ("total = summed - lowest", False),
        ("w = (v - 0.01 * dw)", False),
        ("loglik = hmm.em_step(x)", True),
        ("squared = [model.partial_fit(u, i, r) for u, i, r in ratings]", True),
        ("error = net.train_on_batch(x, y)", True),
    ],
)
def test_lines_that_update(line: str, wanted: bool) -> None:
    assert bool(UPDATES.search(line)) is wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("print(epoch, float(loss), 'mean', read(batch))", False),
        ("print(epoch, read(loss), 'mean', float(batch))", True),
        ("print('loss', read(batch))", True),
        ("losses.append(read(batch))", True),
        ("loss_value = read(batch)", True),
        ("print('batch', read(batch))", False),
    ],
)
def test_number_that_is_a_loss(line: str, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bool] = []

    def read(value: float) -> float:
        frame: FrameType = sys._getframe(1)
        answers.append(is_bad_loss(math.nan, frame))
        return value

    monkeypatch.setattr(loops, "is_user_file", lambda name: True)
    file = tmp_path / "train.py"
    file.write_text(line + "\n")
    values = {"epoch": 0, "loss": 0.5, "batch": math.nan, "losses": [], "read": read, "print": lambda *given: None}
    exec(compile(line, str(file), "exec"), values)
    assert answers == [wanted]


def test_break_of_an_inner_loop(tmp_path: Path) -> None:
    """It ends no iteration of the loop around it."""
    file = tmp_path / "train.py"
    file.write_text(
        "for episode in range(9):\n    for t in range(5):\n        if done(t):\n            break\n"
        "    else:\n        break\n    if update(episode):\n        break\n"
    )
    outer = rewrite(file.read_bytes(), str(file)).sites[0]
    assert outer.header_line == 1
    assert inner_breaks(outer) == {4}


def test_calls_of_functions_with_a_word(tmp_path: Path) -> None:
    """A step may have any name."""
    file = tmp_path / "train.py"
    file.write_text(
        "def learn(x):\n    with tf.GradientTape() as tape:\n        return f(x)\ndef f(x):\n    return x\n"
    )
    pattern = loops.calls_of_those_with("GradientTape", str(file))
    lines = ["mean.update_state(learn(x))", "mean.update_state(f(x))", "def learn(x):", "agent.learn(x)", "unlearn(x)"]
    assert [bool(pattern.search(line)) for line in lines] == [True, False, False, True, False]
