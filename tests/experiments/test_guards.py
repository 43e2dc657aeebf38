"""Guards: finite in value and slope at the singular point, the plain function away from it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from whynan.adapters.torch.experiments import clamp, guards
from whynan.adapters.torch.experiments.change import GuardMode, WiderOp
from whynan.adapters.torch.experiments.operations import StableMode

F = torch.nn.functional


def everywhere(frame: Any) -> bool:
    return True


def gradient_of(function: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    leaf = x.clone().requires_grad_()
    value = function(leaf)
    value.sum().backward()
    return value.detach(), leaf.grad


SINGULAR = {
    "log": (torch.log, [0.0, 0.5]),
    "log method in place": (lambda x: (x * 1).log_(), [0.0, 0.5]),
    "log of negative": (torch.log, [-1.0, 0.5]),
    "log1p": (torch.log1p, [-1.0, 0.5]),
    "sqrt": (lambda x: x.sqrt(), [0.0, 2.0]),
    "rsqrt": (torch.rsqrt, [0.0, 2.0]),
    "square root as a power": (lambda x: x**0.5, [0.0, 2.0]),
    "negative power": (lambda x: torch.pow(x, -1.5), [0.0, 2.0]),
    "division": (lambda x: 3.0 / x, [0.0, 2.0]),
    "division by a tensor": (lambda x: torch.ones(2) / x, [0.0, 2.0]),
    "reciprocal": (torch.reciprocal, [0.0, 2.0]),
    "acos": (torch.acos, [1.0, 0.3]),
    "asin beyond its domain": (torch.asin, [1.5, 0.3]),
    "exp": (torch.exp, [1000.0, 1.0]),
    "spread of one value": (lambda x: x[:1].std() + x.sum(), [1.0, 2.0]),
    "logit": (torch.logit, [1.0, 0.5]),
}


GUARDS = {"clamp": clamp.GUARDS, "part": guards.OPS}


@pytest.mark.parametrize("kind", GUARDS)
@pytest.mark.parametrize("name", SINGULAR)
def test_a_guarded_operation_is_finite_and_has_a_finite_slope(name: str, kind: str) -> None:
    if (name, kind) == ("logit", "part"):
        return  # there is none for it
    function, values = SINGULAR[name]
    x = torch.tensor(values)
    plain_value, plain_slope = gradient_of(function, x)
    assert not (torch.isfinite(plain_value).all() and torch.isfinite(plain_slope).all()), "nothing to guard"
    with GuardMode(GUARDS[kind], everywhere) as mode:
        value, slope = gradient_of(function, x)
    assert mode.n_applied
    assert torch.isfinite(value).all() and torch.isfinite(slope).all()


@pytest.mark.parametrize("kind", GUARDS)
@pytest.mark.parametrize("name", ["log", "sqrt", "rsqrt", "division by a tensor", "reciprocal", "acos", "exp"])
def test_a_guarded_operation_is_the_plain_one_elsewhere(name: str, kind: str) -> None:
    function, values = SINGULAR[name]
    x = torch.tensor(values[1:] * 2)
    with GuardMode(GUARDS[kind], everywhere):
        guarded = gradient_of(function, x)
    for got, expected in zip(guarded, gradient_of(function, x)):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_only_the_place_is_guarded() -> None:
    with GuardMode(clamp.GUARDS, lambda frame: False) as mode:
        assert torch.isinf(torch.log(torch.zeros(1))).all()
    assert mode.n_applied == 0


def test_a_second_where_stops_the_infinite_slope() -> None:
    def hurdle(x: Any) -> Any:
        return torch.where(x > 0, torch.log(x), torch.zeros(2))

    x = torch.tensor([0.0, 2.0])
    assert not torch.isfinite(gradient_of(hurdle, x)[1]).all()
    with GuardMode(guards.DOUBLE_WHERE, everywhere):
        value, slope = gradient_of(hurdle, x)
    torch.testing.assert_close(value, torch.tensor([0.0, 2.0]).clamp(min=1).log())
    torch.testing.assert_close(slope, torch.tensor([0.0, 0.5]))


def test_a_row_that_is_masked_throughout_gets_equal_weights() -> None:
    keep = torch.tensor([[True, True], [False, False]])

    def attention(x: Any) -> Any:
        return torch.softmax(x.masked_fill(~keep, float("-inf")), dim=-1)

    x = torch.randn(2, 2)
    with GuardMode(guards.MASK_FIX, everywhere, guards.MASKS_ANYWHERE) as mode:
        value, slope = gradient_of(attention, x)
    assert mode.n_applied
    torch.testing.assert_close(value[0], torch.softmax(x[0], -1))
    torch.testing.assert_close(value[1], torch.tensor([0.5, 0.5]))
    assert torch.isfinite(slope).all()


EMPTY = {
    "mean": lambda x: x[x > 9].mean() + x.sum() * 0,
    "cross-entropy": lambda x: F.cross_entropy(x.reshape(2, 1).expand(2, 3), torch.full((2,), -100)),
    "division by a count": lambda x: (x * 0).sum() / torch.zeros(()),
    "mse": lambda x: F.mse_loss(x[:0], torch.zeros(0)) + x.sum() * 0,
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_learn_from_gives_0(name: str) -> None:
    with GuardMode(guards.SKIP_EMPTY, everywhere):
        value, slope = gradient_of(EMPTY[name], torch.tensor([1.0, 2.0]))
    assert value == 0 and torch.isfinite(slope).all() and (slope == 0).all()


def test_a_mean_over_something_is_the_plain_one() -> None:
    x = torch.randn(3, 4)
    target = torch.tensor([0, -100, 2])
    with GuardMode(guards.SKIP_EMPTY, everywhere):
        got = F.cross_entropy(x, target), x.mean(), x.mean(dim=1)
    for value, expected in zip(got, (F.cross_entropy(x, target), x.mean(), x.mean(dim=1))):
        torch.testing.assert_close(value, expected)


WITH_ARGUMENTS = {
    "log2": lambda x: torch.log2(x), "log10": lambda x: x.log10(), "scalar over": lambda x: 2 / x,
    "norm of rows": lambda x: x.norm(dim=1, keepdim=True), "norm, p": lambda x: torch.norm(x, 3, 1),
    "vector norm": lambda x: torch.linalg.vector_norm(x, dim=0), "frobenius": lambda x: torch.linalg.norm(x),
    "std": lambda x: x.std(dim=1, unbiased=False), "var": lambda x: torch.var(x, 1, correction=0, keepdim=True),
    "std of all": lambda x: x.std(), "normalize": lambda x: F.normalize(x, dim=1),
    "logsumexp": lambda x: torch.logsumexp(x, 1, True), "power": lambda x: x**1.5,
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_ARGUMENTS)
def test_a_part_takes_the_arguments_of_the_function_that_it_stands_for(name: str) -> None:
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    with GuardMode(guards.OPS, everywhere) as mode:
        guarded = gradient_of(WITH_ARGUMENTS[name], x)
    assert mode.n_applied
    for got, expected in zip(guarded, gradient_of(WITH_ARGUMENTS[name], x)):
        torch.testing.assert_close(got, expected)


STABLE = {
    "log of softmax": (lambda z: torch.log(torch.softmax(z, -1))[..., 0], lambda z: torch.log_softmax(z, -1)[..., 0]),
    "log of sigmoid": (lambda z: torch.log(torch.sigmoid(z)), F.logsigmoid),
    "log of its complement": (lambda z: torch.log(1 - torch.sigmoid(z)), lambda z: F.logsigmoid(-z)),
    "log of a sum of exp": (lambda z: torch.log(torch.exp(z).sum(-1)), lambda z: torch.logsumexp(z, -1)),
    "softplus": (lambda z: torch.log(1 + torch.exp(z)), F.softplus),
    "softmax by hand": (
        lambda z: _by_hand(z),
        lambda z: torch.softmax(z, -1),
    ),
    "nll of softmax": (
        lambda z: F.nll_loss(torch.log(torch.softmax(z, 1)), torch.tensor([1, 0])),
        lambda z: F.cross_entropy(z, torch.tensor([1, 0])),
    ),
    "bce of sigmoid": (
        lambda z: F.binary_cross_entropy(torch.sigmoid(z), torch.zeros(2, 2)),
        lambda z: F.binary_cross_entropy_with_logits(z, torch.zeros(2, 2)),
    ),
}


def _by_hand(z: Any) -> Any:
    powers = torch.exp(z)
    return powers / powers.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", STABLE)
def test_the_stable_form_is_computed_from_the_logits(name: str) -> None:
    loss, expected = STABLE[name]
    z = torch.tensor([[200.0, -200.0], [1.0, 2.0]])
    with StableMode(lambda frame: False) as mode:
        value, slope = gradient_of(loss, z)
    assert mode.n_applied
    assert (mode.parts == {"whynan.torch.losses.binary_cross_entropy_with_logits"}) == name.startswith("bce")
    torch.testing.assert_close(value, expected(z))
    assert torch.isfinite(slope).all()


def test_an_operation_computes_in_a_wider_type() -> None:
    x = torch.tensor([60000.0, 60000.0], dtype=torch.float16)
    with WiderOp(everywhere) as mode:
        total = x.sum()
    assert mode.n_applied and total.dtype == torch.float32 and abs(float(total) - 120000) < 200


def test_equal_eigenvalues_come_apart() -> None:
    def whitened(x: torch.Tensor) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(x @ x.T + 0.1 * torch.eye(4))
        return vectors @ torch.diag(values.rsqrt()) @ vectors.T @ torch.arange(4.0)

    x = torch.diag(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert not torch.isfinite(gradient_of(whitened, x)[1]).all(), "nothing to guard"
    with GuardMode(clamp.GUARDS, everywhere) as mode:
        value, slope = gradient_of(whitened, x)
    assert mode.n_applied and torch.isfinite(value).all() and torch.isfinite(slope).all()
