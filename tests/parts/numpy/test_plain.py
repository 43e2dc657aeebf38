"""The plain lines of NumPy's parts: they are taken where they are exact, give what the formula gives, and no more."""

import inspect

import numpy as np
import pytest
from tests.parts import suite
from tests.parts.numpy.test_parts import NUMPY

from whynan.numpy import losses, ops, plain

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
PARTS = {name: getattr(module, name) for module in (ops, losses) for name in module.__all__}
WITH_LINES = [name for name in PARTS if name in vars(plain)]


def both(monkeypatch, call):
    """Return what a call gives with and without plain lines."""
    quick = call()
    with monkeypatch.context() as patch:
        patch.setattr(plain, "suit", lambda *args: False)
        return quick, call()


def same(quick, careful, ulps=8.0):
    assert type(quick) is type(careful)
    if isinstance(quick, dict):
        assert quick.keys() == careful.keys()
        for name in quick:
            same(quick[name], careful[name], ulps)
        return
    assert (quick.dtype, quick.shape) == (careful.dtype, careful.shape)
    eps = np.finfo(quick.dtype).eps
    np.testing.assert_allclose(quick, careful, rtol=ulps * eps, atol=ulps * eps)


def test_they_take_the_first_arguments_of_their_formulas():
    assert len(WITH_LINES) > 30
    for name in WITH_LINES:
        formula = inspect.signature(PARTS[name]).parameters
        lines = inspect.signature(getattr(plain, name)).parameters.values()
        places = [p.name for p in lines if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert places == list(formula)[: len(places)], name
        assert {p.name for p in lines if p.kind is p.KEYWORD_ONLY} <= formula.keys() | {"f", "kind"}, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", suite.ALL, ids=str)
def test_they_give_what_the_formula_gives(monkeypatch, case, dtype):
    values = list(np.random.default_rng(0).uniform(0.05, 0.95, 23))
    for n in (1, 7, 40):
        arrays = suite.fill(values, case.shapes(n), dtype)
        quick, careful = both(monkeypatch, lambda arrays=arrays, n=n: case.call(NUMPY, n, *arrays))
        same(quick, careful, 64 if "standardize" in case.name else 8)


@pytest.mark.parametrize("name", WITH_LINES)
def test_healthy_arguments_take_them(monkeypatch, name):
    """No formula is asked: where it would be, an error comes."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.05, 0.95, (6, 4)).astype(np.float32)
    boxes = np.concatenate([x[:, :2], x[:, :2] + x[:, 2:]], 1)
    labels = np.array([0, 1, 2, 3, 0, 1])
    second = {"categorical_cross_entropy": labels, "pow": 1.7}.get(name, x[::-1].copy())
    args = {
        "contrastive_loss": (x, x[::-1].copy(), labels % 2), "gaussian_nll_loss": (x, x, x), "kl_divergence_normal":
        (x + 1, x), "rpn_loss": (x[:, 0].copy(), x, labels - 1, boxes), "fast_rcnn_loss":
        (x, x.repeat(4, 1), labels, x),
    }.get(name)  # fmt: skip
    if args is None:
        needed = [p for p in inspect.signature(PARTS[name]).parameters.values() if p.default is p.empty]
        args = (boxes if "iou" in name else x, second)[: len(needed)]
        args = tuple(np.roll(boxes, 1, 0) if "iou" in name and i else a for i, a in enumerate(args))
    monkeypatch.setattr(plain.NumPy, "asarray", lambda *args: pytest.fail("the formula was asked"))
    if name == "fast_rcnn_loss":  # Its cross-entropy is the formula's.
        monkeypatch.setattr(plain.classification, "cross_entropy", lambda *args, **given: np.float32(0))
    result = PARTS[name](*args)
    assert np.isfinite(list(result.values()) if isinstance(result, dict) else result).all()


@pytest.mark.parametrize("odd", [0.0, -1.0, 1e-40, 1e-30, 1e30, 3e38, 100.0, np.inf, -np.inf, np.nan])
def test_one_odd_number_gives_what_it_gave(monkeypatch, odd):
    x = np.random.default_rng(0).uniform(0.05, 0.95, (6, 4)).astype(np.float32)
    x[3, 2] = odd
    y = np.full_like(x, 0.5)
    calls = {
        name: lambda f=PARTS[name]: f(x) for name in (
            "log", "log1p", "sqrt", "exp", "reciprocal", "acos", "asin", "norm", "std", "var")
    } | {
        name: lambda f=PARTS[name]: f(x, y) for name in (
            "pow", "atan2", "smooth_l1_loss", "relative_error_loss", "binary_cross_entropy", "focal_loss",
            "kl_divergence_normal", "dice_loss", "binary_cross_entropy_with_logits", "iou_loss")
    } | {
        "softmax": lambda: ops.softmax(x, 1), "normalize": lambda: ops.normalize(x, 1),
        "div": lambda: ops.div(y, x), "mask": lambda: ops.softmax(x, 1, x > 0.5),
        "nll": lambda: losses.gaussian_nll_loss(x, y, x),
    }  # fmt: skip
    for name, call in calls.items():
        quick, careful = both(monkeypatch, call)
        assert np.isfinite(quick).all() == np.isfinite(careful).all(), name
        np.testing.assert_allclose(quick, careful, rtol=1e-6, atol=1e-6, err_msg=name)


def test_blocks_are_one_loss(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 30)), rng.random((50, 30)).round()
    monkeypatch.setattr(plain, "BLOCK", 64)
    for name in ("binary_cross_entropy_with_logits", "focal_loss", "smooth_l1_loss", "kl_divergence_normal"):
        for reduction in ("mean", "sum", "none"):
            same(*both(monkeypatch, lambda f=PARTS[name], r=reduction: f(x, y, reduction=r)))


def test_arguments_stay_as_they_are():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.1, 0.9, (2, 6, 4))
    before = x.copy(), y.copy()
    for name in ("smooth_l1_loss", "focal_loss", "iou_loss", "contrastive_loss", "softmax", "std", "standardize"):
        args = (x, y, np.ones(6)) if name == "contrastive_loss" else (x, y) if "loss" in name else (x, 1)
        result = PARTS[name](*args)
        assert not np.shares_memory(result, x)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
