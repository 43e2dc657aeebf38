"""What names hold above a line, and the change of a line that uses them."""

import pytest

from whynan.diagnosis.remedies.stable_loss import StableLoss
from whynan.diagnosis.rewrite import assigned_above, named_numbers

from .synthetic import evidence, zeros

SCRIPT = """import torch.nn.functional as F

def loss(score, y, rows):
    p = torch.sigmoid(score + 1)
    q = score.softmax(dim=1)
    for row in rows:
        twice = torch.sigmoid(row)
        twice = twice + 1
        moved = torch.sigmoid(twice)
    return torch.log(1 - p) + torch.log(q)

def other(p):
    return torch.log(1 - p)
"""
LINES = SCRIPT.splitlines(keepends=True)


def test_a_name_is_known_where_it_was_assigned_once_and_above() -> None:
    known = assigned_above(LINES, 10)
    assert known == {"F": "torch.nn.functional", "p": "torch.sigmoid(score + 1)", "q": "score.softmax(dim=1)"}
    assert assigned_above(LINES, 4) == {"F": "torch.nn.functional"}, "not yet"
    assert assigned_above(LINES, 13) == {"F": "torch.nn.functional"}, "an argument of another function"
    assert assigned_above(["def f(:\n"], 1) == {}


def test_a_probability_that_has_a_name_is_computed_from_its_logits() -> None:
    found = evidence("log", "forward", zeros(), code=LINES[9].strip(), assigned=assigned_above(LINES, 10))
    wanted = "return F.logsigmoid(-(score + 1)) + torch.log_softmax(score, dim=1)"
    assert StableLoss().patch(found, "log-of-zero") == wanted


PARTS_OF_STATEMENTS = {
    "+ (1 - y) * torch.log(1 - torch.sigmoid(z))).mean()": "+ (1 - y) * F.logsigmoid(-z)).mean()",
    "loss = -(y * torch.log(torch.sigmoid(z)) +  # of": "loss = -(y * F.logsigmoid(z) +  # of",
    'a = f(b["("], torch.log(torch.softmax(z, 1)),': 'a = f(b["("], torch.log_softmax(z, 1),',
}


@pytest.mark.parametrize("line", PARTS_OF_STATEMENTS)
def test_one_line_of_a_statement_over_several_is_changed(line: str) -> None:
    assert (
        StableLoss().patch(evidence("log", "forward", zeros(), code=line), "log-of-zero") == PARTS_OF_STATEMENTS[line]
    )


def test_numbers_by_name():
    lines = """\
EPS = 1e-9
class Unit:
    def __init__(self, d, eps=1e-8):
        self.eps = eps
    def forward(self, x, *, tiny=1e-7, other=0.5):
        return x / (x.norm() + self.eps + tiny + EPS)
""".splitlines(keepends=True)
    assert named_numbers(lines, 6) == {"eps": 1e-8, "tiny": 1e-7, "EPS": 1e-9}
    assert named_numbers(["if x\n"], 1) == {}
