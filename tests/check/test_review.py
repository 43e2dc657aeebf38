"""The review of a first step: what it says of a step with a fault, and that it is silent about one without."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from whynan.check.graph import Place
from whynan.check.review import LayerFacts, OptimizerFacts, StepFacts, review

spec = importlib.util.spec_from_file_location("check_steps_of_review", Path(__file__).with_name("steps.py"))
assert spec is not None and spec.loader is not None
steps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(steps)
PLACE = Place("train.py", 7, "main")
LABELS = torch.tensor([0, 1, 2, 2, 0, 1])


def logits() -> Any:
    return steps.data(6, 4) @ steps.weight(4, 3)


def optimizer(**about: Any) -> OptimizerFacts:
    known: dict[str, Any] = {
        "kind": "SGD", "place": PLACE, "rates": (0.01,), "eps": (), "decays": (0.0,), "momentum": 0.0,
        "dtypes": ("float32",), "weight_norm": 10.0, "gradient_norm": 1.0, "n_parameters": 100,
    }  # fmt: skip
    return OptimizerFacts(**{**known, **about})


def said(step: Callable[[], Any], **facts: Any) -> list[tuple[str, str]]:
    context, _ = steps.recorded(step)
    return [(f.check, f.severity) for f in review(StepFacts(context, **facts))]


def good() -> Any:
    return F.cross_entropy(logits(), LABELS)


STEPS: dict[str, tuple[tuple[str, str], Callable[[], Any]]] = {
    "softmax into cross-entropy": (
        ("loss-input-mismatch", "warning"),
        lambda: F.cross_entropy(logits().softmax(1), LABELS),
    ),
    "a sigmoid into a loss on logits": (
        ("loss-input-mismatch", "warning"),
        lambda: F.binary_cross_entropy_with_logits(logits().sigmoid(), steps.data(6, 3, lo=0.0)),
    ),
    "likelihoods that are no logarithms": (
        ("loss-input-mismatch", "error"),
        lambda: F.nll_loss(logits().exp(), LABELS),
    ),
    "a regression on classes": (
        ("regression-on-classes", "note"),
        lambda: F.mse_loss(logits()[:, 0], LABELS.to(torch.float32)),
    ),
    "a large first loss": (
        ("initial-loss", "warning"),
        lambda: F.cross_entropy(900 * logits() * steps.data(6, 3), LABELS),
    ),
    "BatchNorm over two values": (
        ("batch-norm-batch", "warning"),
        lambda: F.batch_norm(logits()[:2], None, None, training=True).sum(),
    ),
    "float16 without a scaler": (("loss-scaling", "warning"), lambda: (logits().half() * 2).float().sum()),
}


@pytest.mark.parametrize("name", STEPS)
def test_said_of_the_step(name: str) -> None:
    expected, step = STEPS[name]
    assert expected in said(step)


FACTS: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "eps 0": (("optimizer-eps", "error"), {"optimizers": (optimizer(kind="Adam", eps=(0.0,)),)}),
    "eps below float16": (
        ("optimizer-eps", "error"),
        {"optimizers": (optimizer(kind="Adam", eps=(1e-8,), dtypes=("float16",)),)},
    ),
    "weight decay": (("weight-decay", "error"), {"optimizers": (optimizer(rates=(0.05,), decays=(100.0,)),)}),
    "an update larger than the weights": (
        ("gradient-scale", "warning"),
        {"optimizers": (optimizer(gradient_norm=1e4),)},
    ),
    "a warm-up in the wrong unit": (("warmup", "warning"), {"optimizers": (optimizer(later_rates=[1e-5, 0.01]),)}),
    "a learning rate that overshoots": (
        ("learning-rate", "warning"),
        {"optimizers": (optimizer(rates=(1.0,)),), "rate_test": ((0.0, 2.0), (0.01, 1.9), (0.1, 1.5), (1.0, 90.0))},
    ),
    "clipping what is scaled": (("clip-before-unscale", "error"), {"clipped_before_unscale": PLACE}),
    "growing activations": (
        ("activation-scale", "warning"),
        {"layers": (LayerFacts("a", "Linear", 1.0, 0.0, 0.0), LayerFacts("b", "Linear", 1e5, 0.0, 0.0))},
    ),
    "dead units": (("dead-units", "warning"), {"layers": (LayerFacts("a", "ReLU", 1.0, 0.995, 0.0),)}),
    "saturated units": (("saturated-units", "warning"), {"layers": (LayerFacts("a", "Tanh", 1.0, 0.0, 0.97),)}),
    "a first loss of nan": (("initial-loss", "error"), {"losses": (float("nan"),)}),
}


@pytest.mark.parametrize("name", FACTS)
def test_said_of_the_run(name: str) -> None:
    expected, facts = FACTS[name]
    assert expected in said(good, **facts)


def test_nothing_is_said_of_an_ordinary_step() -> None:
    layers = (LayerFacts("a", "Linear", 1.0, 0.0, 0.0), LayerFacts("b", "ReLU", 0.7, 0.5, 0.0))
    adam = optimizer(kind="AdamW", eps=(1e-8,), decays=(0.01,), rates=(1e-3,), later_rates=[1e-3, 1e-3])
    tested = ((0.0, 1.1), (1e-5, 1.099), (1e-4, 1.09), (1e-3, 1.0))
    assert said(good, layers=layers, optimizers=(adam,), losses=(1.1,), rate_test=tested) == []
