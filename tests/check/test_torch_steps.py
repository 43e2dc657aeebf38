"""What is suspected of a recorded PyTorch step, and what is not."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from whynan.adapters.torch.check.search import TorchSearch
from whynan.check.show import _suspect

spec = importlib.util.spec_from_file_location("check_steps", Path(__file__).with_name("steps.py"))
assert spec is not None and spec.loader is not None
steps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(steps)
recorded, suspects_of, data, weight = steps.recorded, steps.suspects_of, steps.data, steps.weight


def logits() -> Any:
    return data(6, 4) @ weight(4, 3)


def masks() -> Any:
    return data(6, 3) > 0.2


SUSPECT: dict[str, tuple[str, Callable[[], Any]]] = {
    "log of a sigmoid": ("log-of-zero", lambda: -torch.log(torch.sigmoid(60 * logits())).mean()),
    "log of a softmax": ("log-of-zero", lambda: -torch.log(torch.softmax(logits(), 1)).mean()),
    "log of one minus a sigmoid": ("log-of-zero", lambda: -torch.log(1 - torch.sigmoid(logits())).mean()),
    "log of a linear output": ("domain-error", lambda: torch.log(logits() + 1).mean()),
    "log10 of data": ("log-of-zero", lambda: (torch.log10(data(6, 3, lo=0.0)) * logits()).mean()),
    "root of a sum of squares": ("sqrt-at-zero", lambda: logits().pow(2).sum(1).sqrt().mean()),
    "root of a product with itself": ("sqrt-at-zero", lambda: (lambda d: (d * d).sum(1).sqrt().mean())(logits())),
    "fractional power": ("sqrt-at-zero", lambda: (torch.relu(logits()) ** 0.5).mean()),
    "fractional power below zero": ("domain-error", lambda: (logits() ** 0.7).mean()),
    "divided by a count": ("division-by-zero", lambda: logits().sum() / masks().sum()),
    "divided by a spread": (
        "division-by-zero",
        lambda: ((data(6, 3) - 0.1) / data(6, 3).std(1, keepdim=True) * logits()).sum(),
    ),
    "divided by a norm": ("division-by-zero", lambda: (logits() / logits().norm(dim=1, keepdim=True)).sum()),
    "mean of what a mask picks": ("empty-reduction", lambda: logits()[masks()].mean()),
    "loss of what a mask picks": ("empty-reduction", lambda: F.smooth_l1_loss(logits()[masks()], data(6, 3)[masks()])),
    "targets all ignored": ("empty-reduction", lambda: F.cross_entropy(logits(), torch.tensor([0, 1, 2, -100, 0, 1]))),
    "spread of one": ("empty-reduction", lambda: (logits()[:1, 0].std() + 1).log()),
    "exp of a large linear output": ("exp-overflow", lambda: torch.exp(40 * logits()).mean()),
    "softmax over a mask of data": (
        "fully-masked-softmax",
        lambda: torch.softmax(logits().masked_fill(~masks(), -torch.inf), 1).sum(),
    ),
    "acos of a cosine": ("domain-error", lambda: torch.acos(F.cosine_similarity(logits(), data(6, 3))).mean()),
    "trap of where": (
        "where-gradient-trap",
        lambda: (lambda d: torch.where(d > 0, torch.log(d), torch.zeros_like(d)).sum())(logits()),
    ),
    "norm without eps": ("normalization-zero-variance", lambda: F.group_norm(logits()[..., None], 3, eps=0.0).sum()),
    "eps that float16 rounds away": (
        "half-precision-underflow",
        lambda: (logits().half().abs() + 1e-9).float().log().sum(),
    ),
    "sums in float16": (
        "half-precision-overflow",
        lambda: ((600 * logits()).half() * (600 * logits()).half()).float().mean(),
    ),
}
CLEAN: dict[str, Callable[[], Any]] = {
    "logsigmoid": lambda: -F.logsigmoid(logits()).mean(),
    "log_softmax": lambda: -F.log_softmax(logits(), 1).mean(),
    "a logsumexp by hand": lambda: (lambda x: (x - x.amax(1, keepdim=True)).exp().sum(1).log().mean())(logits()),
    "a softmax by hand": lambda: (
        lambda x: (lambda e: e / e.sum(1, keepdim=True))((x - x.amax(1, keepdim=True)).exp()).sum()
    )(logits()),
    "a log of what is clamped": lambda: -torch.log(torch.sigmoid(logits()).clamp(1e-6, 1 - 1e-6)).mean(),
    "a log of what has something added": lambda: -torch.log(torch.sigmoid(logits()) + 1e-6).mean(),
    "a root with an eps": lambda: (logits().pow(2).sum(1) + 1e-8).sqrt().mean(),
    "a root of what is clamped": lambda: logits().pow(2).sum(1).clamp(min=1e-8).sqrt().mean(),
    "a norm, whose slope at 0 is 0": lambda: logits().norm(dim=1).mean(),
    "F.normalize": lambda: F.normalize(logits(), dim=1).sum(),
    "divided by a count that is at least one": lambda: logits().sum() / masks().sum().clamp(min=1),
    "divided by one plus a square": lambda: (logits() / (1 + logits() ** 2)).sum(),
    "divided by a softmax's sum": lambda: (lambda p: (p / p.sum(1, keepdim=True)).sum())(torch.softmax(logits(), 1)),
    "a standard deviation with an eps": lambda: (logits() / (data(6, 3).std(1, keepdim=True) + 1e-5)).sum(),
    "acos kept inside": lambda: torch.acos(F.cosine_similarity(logits(), data(6, 3)).clamp(-1 + 1e-6, 1 - 1e-6)).mean(),
    "exp of what is clamped": lambda: torch.exp((40 * logits()).clamp(max=10.0)).mean(),
    "exp of a tanh": lambda: torch.exp(torch.tanh(logits())).mean(),
    "both branches of where made safe": lambda: (
        lambda d: torch.where(d > 0, torch.log(torch.where(d > 0, d, torch.ones_like(d))), torch.zeros_like(d)).sum()
    )(logits()),
    "a causal mask": lambda: torch.softmax(
        (logits() @ logits().T).masked_fill(torch.ones(6, 6).tril() == 0, -torch.inf), 1
    ).sum(),
    "a mask of a large number": lambda: torch.softmax(logits().masked_fill(~masks(), -1e9), 1).sum(),
    "binary cross-entropy, which is guarded inside": lambda: F.binary_cross_entropy(
        torch.sigmoid(logits()), data(6, 3, lo=0.0)
    ),
    "cross-entropy": lambda: F.cross_entropy(logits(), torch.tensor([0, 1, 2, 2, 0, 1])),
    "a square, of any size": lambda: ((1e6 * logits()) ** 2).mean(),
    "layer norm": lambda: F.layer_norm(logits(), [3]).sum(),
    "an atan2, whose slope at the origin is 0": lambda: torch.atan2(logits(), logits()).sum(),
    "a spread of nobody's interest": lambda: (logits().sum(), (data(6, 3) / data(6, 3).std())[0])[0],
}


@pytest.mark.parametrize("name", SUSPECT)
def test_suspected(name: str) -> None:
    cause, step = SUSPECT[name]
    found = suspects_of(step)
    assert cause in [c for s in found for c in (s.cause, *s.also)], [(s.cause, s.why) for s in found]


@pytest.mark.parametrize("name", CLEAN)
def test_left_alone(name: str) -> None:
    assert [(s.cause, s.op, s.why) for s in suspects_of(CLEAN[name])] == []


def test_a_number_that_the_program_asked_first_is_a_guard() -> None:
    def step() -> Any:
        mask = masks()
        if mask.any():
            return logits()[mask].mean()
        return logits().sum()

    assert suspects_of(step) == []


def test_memory_that_was_written_in_place_is_what_was_written() -> None:
    def step() -> Any:
        mask = ~masks()
        mask[:, 0] = False
        return torch.softmax(logits().masked_fill(mask, -torch.inf), 1).sum()

    assert suspects_of(step) == []


WITNESSED = [
    "log of a sigmoid",
    "root of a sum of squares",
    "divided by a count",
    "mean of what a mask picks",
    "softmax over a mask of data",
    "trap of where",
    "exp of a large linear output",
    "targets all ignored",
]


@pytest.mark.parametrize("name", WITNESSED)
def test_a_witness_is_found_and_really_fails(name: str) -> None:
    context, program = recorded(SUSPECT[name][1])
    suspect = steps.find_suspects(context)[0]
    witness = TorchSearch(context, program).find(suspect.hazard, suspect.phase, 4.0)
    assert witness.found, witness
    root = context.graph.roots[-1]
    values = {int(index): value for index, value in witness.leaves.items()}
    wanted = context.graph.ancestors(root)
    leaves = {
        i: values.get(i, program.leaves[i]).detach().clone().requires_grad_()
        for i in wanted
        if context.graph.nodes[i].kind == "parameter"
    }
    loss = program.run(wanted, {**values, **{i: v * 1 for i, v in leaves.items()}}, context.graph, grad=True)[root]
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    assert not all(bool(torch.isfinite(t).all()) for t in (loss, *gradients) if t is not None)


def test_what_cannot_fail_has_no_witness() -> None:
    context, program = recorded(lambda: torch.log(torch.sigmoid(data(4, 3)) * 0 + logits()[:4].abs() + 2).sum())
    assert steps.find_suspects(context) == []
    node = next(n for n in context.graph.nodes if n.op == "log")
    hazard = steps.find_suspects(recorded(SUSPECT["log of a sigmoid"][1])[0])[0].hazard
    from dataclasses import replace

    witness = TorchSearch(context, program).find(replace(hazard, node=node.index), "forward", 0.5)
    assert not witness.found


def test_two_causes_on_one_line_are_both_named(capsys: Any) -> None:
    def both() -> Any:
        p = torch.sigmoid(logits())
        return torch.sqrt((p - 1).abs()).mean() - torch.log(p).mean()

    found = suspects_of(both)
    assert [{s.cause, *s.also} for s in found] == [{"log-of-zero", "sqrt-at-zero"}]
    _suspect(Console(width=200), 1, found[0])
    assert f"[{found[0].cause}, also {found[0].also[0]}]" in capsys.readouterr().out
