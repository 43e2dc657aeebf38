"""Remedies are fitted to the line where they belong, and what they write is code."""

import ast
from typing import Any

import pytest

from whynan.diagnosis import catalogue
from whynan.records import BatchFacts, History, OptimizerFacts, Precision, Sample, SourceLine

from .synthetic import evidence, tensor, zeros

ONE = tensor(-0.5, 1.0000001)
ON_THE_LINE = [
    ("clamp-or-eps", "log", "forward", "loss = -torch.log(p).mean()", "loss = -torch.log(p.clamp(min=1e-7)).mean()"),
    ("clamp-or-eps", "log", "forward", "x = np.log(a + b)", "x = np.log(np.maximum((a + b), 1e-7))"),
    ("clamp-or-eps", "log", "forward", "return p.log().sum()", "return p.clamp(min=1e-7).log().sum()"),
    ("clamp-or-eps", "sqrt", "backward", "n = torch.sqrt(g.pow(2).sum(1))", "n = torch.sqrt(g.pow(2).sum(1) + 1e-12)"),
    ("clamp-or-eps", "sqrt", "backward", "return (u - v).pow(2).sum().sqrt()",
     "return ((u - v).pow(2).sum() + 1e-12).sqrt()"),
    ("clamp-or-eps", "div", "forward", "return (1 - 2 * inter / total).mean()",
     "return (1 - 2 * inter / (total + 1e-8)).mean()"),
    ("clamp-or-eps", "div", "forward", "y = a / (b - c)", "y = a / (b - c + 1e-8)"),
    ("clamp-or-eps", "div", "data", "return (img - img.mean()) / img.std()",
     "return (img - img.mean()) / (img.std() + 1e-8)"),
    ("clamp-or-eps", "acos", "forward", "a = torch.acos(cos)", "a = torch.acos(cos.clamp(-1 + 1e-6, 1 - 1e-6))"),
    ("clamp-or-eps", "exp", "forward", "s = torch.exp(0.5 * lv)", "s = torch.exp((0.5 * lv).clamp(max=80))"),
    ("clamp-or-eps", "pow", "backward", "d = (a - b) ** 0.5", "d = (a - b + 1e-12) ** 0.5"),
    ("double-where", "log", "backward", "d = torch.log(pred)", "d = torch.log(torch.where(pred > 0, pred, 1.0))"),
    ("double-where", "div", "backward", "y = a / b", "y = a / torch.where(b != 0, b, 1.0)"),
    ("stable-loss", "log", "forward", "l = torch.log(torch.softmax(z, dim=1))", "l = torch.log_softmax(z, dim=1)"),
    ("stable-loss", "log", "forward", "l = z.softmax(-1).log()", "l = torch.log_softmax(z, -1)"),
    ("stable-loss", "log", "forward", "l = torch.log(torch.sigmoid(z)).sum()", "l = F.logsigmoid(z).sum()"),
    ("stable-loss", "log", "forward", "l = torch.log(torch.exp(z).sum(1))", "l = torch.logsumexp(z, 1)"),
    ("stable-loss", "binary_cross_entropy", "forward", "loss = F.binary_cross_entropy(torch.sigmoid(z), y)",
     "loss = F.binary_cross_entropy_with_logits(z, y)"),
    ("mask-fix", "softmax", "forward", "w = F.softmax(scores, dim=-1)",
     "w = F.softmax(scores.clamp(min=torch.finfo(scores.dtype).min), dim=-1)"),
    ("mask-fix", "softmax", "forward", 's = s.masked_fill(m, float("-inf"))',
     "s = s.masked_fill(m, torch.finfo(s.dtype).min)"),
    ("skip-empty", "mean", "forward", "loss = err[pos].mean()", "loss = err[pos].sum() / max(err[pos].numel(), 1)"),
    ("skip-empty", "nll_loss", "forward", "loss = F.cross_entropy(o, y, ignore_index=255)",
     'loss = F.cross_entropy(o, y, ignore_index=255, reduction="sum") / (y != 255).sum().clamp(min=1)'),
    ("full-precision", "exp", "forward", "y = torch.exp(x)", "y = torch.exp(x.double())"),
    ("fix-custom-op", "div", "backward", "return grad / norm, None", "return grad / (norm + 1e-8), None"),
]  # fmt: skip
HARD = (
    None, "", "loss = criterion(", ") / 2", "if x / y > 3:", "é = größe / länge", "return", "a / b / c", "x = *y, 1",
    "with torch.autocast('cuda'):", "    for x, y in loader:", "lambda: 1 / x", "print('ä', torch.log(ü))",
)  # fmt: skip


@pytest.mark.parametrize(("slug", "op", "phase", "code", "wanted"), ON_THE_LINE)
def test_patch_changes_the_line(slug: str, op: str, phase: str, code: str, wanted: str) -> None:
    given = evidence(op, phase, zeros() if op != "acos" else ONE, zeros(), code=code)
    assert propose(slug, given).patch == wanted
    ast.parse(wanted)


@pytest.mark.parametrize("code", HARD)
@pytest.mark.parametrize("op", ["log", "div", "sqrt", "pow", "exp", "acos", "softmax", "nll_loss", "mean", "mm"])
def test_any_line_gives_a_statement_or_nothing(op: str, code: str | None) -> None:
    given = evidence(op, "forward", zeros(), zeros(), code=code)
    for remedy in catalogue.all_remedies():
        patch = remedy.propose(given, "log-of-zero").patch
        if patch is not None:
            ast.parse(patch if not patch.endswith(":") else f"{patch} pass")


def test_eps_exists_in_the_dtype() -> None:
    given = evidence("log", "forward", zeros(dtype="float16"), output=tensor(dtype="float16"), code="y = torch.log(p)")
    assert propose("clamp-or-eps", given).patch == "y = torch.log(p.clamp(min=1e-4))"


def test_unicode_columns() -> None:
    given = evidence("log", "forward", zeros(), code="größe = torch.log(höhe)")
    assert propose("clamp-or-eps", given).patch == "größe = torch.log(höhe.clamp(min=1e-7))"


def test_learning_rate_is_changed_where_the_optimizer_is_made() -> None:
    source = SourceLine("train.py", 31, "main", "opt = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)")
    found = propose("lower-learning-rate", evidence(optimizer=OptimizerFacts("SGD", lr=0.5, source=source)))
    assert (found.where, found.patch) == (
        "train.py:31",
        "opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)",
    )


def test_learning_rate_without_its_line_is_told_all_the_same() -> None:
    found = propose("lower-learning-rate", evidence(optimizer=OptimizerFacts("SGD", lr=0.5)))
    assert (found.where, found.patch) == (None, "torch.optim.SGD(..., lr=0.05)")


def test_optimizer_eps() -> None:
    source = SourceLine("train.py", 9, None, "opt = torch.optim.Adam(p, eps=0.0)")
    given = evidence("addcdiv", "optimizer", zeros(), optimizer=OptimizerFacts("Adam", eps=0.0, source=source))
    found = propose("larger-eps", given, "optimizer-epsilon")
    assert (found.where, found.patch) == ("train.py:9", "opt = torch.optim.Adam(p, eps=1e-8)")


def test_sample_is_named() -> None:
    found = propose("drop-sample", evidence(samples=(Sample(3, 4021, None, "box without width"),)))
    assert "{4021}" in (found.patch or "")


def test_clip_bound_is_that_of_healthy_steps() -> None:
    history = History(grad_norm=(2.0,) * 50 + (1e9, float("nan")))
    assert "max_norm=2)" in (propose("clip-gradients", evidence(history=history)).patch or "")


def test_autocast_is_left_for_the_line() -> None:
    given = evidence("mm", "forward", code="h = a @ b", precision=Precision("float16"))
    assert propose("full-precision", given).patch == (
        'with torch.autocast("cuda", enabled=False): h = a @ b  # its inputs as .float()'
    )


def test_ignore_index_is_proposed_for_the_usual_label() -> None:
    given = evidence(batch=BatchFacts(labels_out_of_range=((0, 255.0),)))
    assert propose("fix-labels", given, "label-out-of-range").patch == "F.cross_entropy(..., ignore_index=255)"


def propose(slug: str, given: Any, cause: str = "log-of-zero") -> Any:
    remedy = catalogue.remedy(slug)
    assert remedy is not None
    return remedy.propose(given, cause)
