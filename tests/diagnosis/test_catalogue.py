"""Every slug of the specification has its file, every page its sections, and every example does what it says."""

import math
import textwrap
import warnings
from typing import Any

import pytest

from whynan.diagnosis import catalogue

CAUSES = [
    "bad-input-values",
    "bad-target-values",
    "label-out-of-range",
    "degenerate-box",
    "empty-target",
    "constant-input",
    "extreme-input-scale",
    "log-of-zero",
    "division-by-zero",
    "sqrt-at-zero",
    "exp-overflow",
    "domain-error",
    "fully-masked-softmax",
    "where-gradient-trap",
    "inf-minus-inf",
    "empty-reduction",
    "learning-rate-too-high",
    "exploding-gradient",
    "bad-initialization",
    "optimizer-epsilon",
    "excessive-regularization",
    "half-precision-overflow",
    "half-precision-underflow",
    "missing-grad-scaling",
    "normalization-zero-variance",
    "custom-backward",
    "uninitialized-memory",
    "loss-input-mismatch",
    "non-reproducible",
]
REMEDIES = [
    "drop-sample",
    "fix-labels",
    "normalize-inputs",
    "clamp-or-eps",
    "stable-loss",
    "double-where",
    "lower-learning-rate",
    "warmup",
    "clip-gradients",
    "better-init",
    "full-precision",
    "grad-scaler",
    "larger-eps",
    "larger-batch-or-groupnorm",
    "skip-empty",
    "mask-fix",
    "fix-custom-op",
]
# Needs a machine that fails.
NOT_RUNNABLE = {"non-reproducible"}


def test_catalogue_is_complete() -> None:
    assert sorted(cause.slug for cause in catalogue.all_causes()) == sorted(CAUSES)
    assert sorted(remedy.slug for remedy in catalogue.all_remedies()) == sorted(REMEDIES)


@pytest.mark.parametrize("slug", CAUSES)
def test_cause_is_a_page(slug: str) -> None:
    cause = catalogue.look_up(slug)
    page = catalogue.page_of(cause)
    assert page.text and cause.title
    assert {"Symptoms", "Bad", "Good"} <= set(page.sections)
    assert cause.remedies and set(cause.remedies) <= set(REMEDIES)  # type: ignore[union-attr]
    assert type(cause).__module__.rsplit(".", 1)[1] == slug.replace("-", "_")


@pytest.mark.parametrize("slug", REMEDIES)
def test_remedy_is_a_page_and_helps_something(slug: str) -> None:
    remedy = catalogue.look_up(slug)
    page = catalogue.page_of(remedy)
    assert page.text and remedy.title and page.sections["Code"]
    assert catalogue.causes_helped_by(slug)
    assert type(remedy).__module__.rsplit(".", 1)[1] == slug.replace("-", "_")


@pytest.mark.parametrize("slug", [slug for slug in CAUSES if slug not in NOT_RUNNABLE])
def test_bad_code_fails_and_good_code_does_not(slug: str) -> None:
    sections = catalogue.page_of(catalogue.look_up(slug)).sections
    given = sections.get("Given", "")
    assert not is_finite(run(f"{given}\n{sections['Bad']}")), "the bad code is finite"
    assert is_finite(run(f"{given}\n{sections['Good']}")), "the good code is not"


def run(code: str) -> dict[str, Any]:
    """Run an example and its backward pass; return its names."""
    import torch

    names: dict[str, Any] = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional}
    deterministic = torch.are_deterministic_algorithms_enabled()
    state = torch.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(textwrap.dedent(code), names)
            if names["loss"].requires_grad and names["loss"].grad_fn is not None:
                try:
                    names["loss"].backward()
                except RuntimeError as error:
                    # An optimizer loop has used its graph already.
                    assert "second time" in str(error)
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_rng_state(state)
    return names


def is_finite(names: dict[str, Any]) -> bool:
    """Return whether the loss and every gradient that the example has left are finite."""
    torch = names["torch"]
    if not math.isfinite(names["loss"].detach().item()):
        return False
    leaves = []
    for value in list(names.values()):
        if isinstance(value, torch.Tensor) and value.is_leaf:
            leaves.append(value)
        elif isinstance(value, torch.nn.Module):
            leaves += list(value.parameters())
        elif isinstance(value, list):
            leaves += [item for item in value if isinstance(item, torch.Tensor)]
    return all(bool(torch.isfinite(leaf.grad).all()) for leaf in leaves if leaf.grad is not None)


def test_unknown_slug_names_close_ones() -> None:
    with pytest.raises(catalogue.UnknownSlugError, match="log-of-zero") as caught:
        catalogue.look_up("log-zero")
    assert "log-of-zero" in caught.value.close
    with pytest.raises(catalogue.UnknownSlugError, match="Nothing comes close"):
        catalogue.look_up("qqqq")


def test_slug_may_be_spelled_like_a_file() -> None:
    assert catalogue.look_up("Log_Of_Zero").slug == "log-of-zero"


def test_broken_plugin_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def load(self) -> None:
            raise ImportError("no such thing")

    monkeypatch.setattr(catalogue, "entry_points", lambda group: [Broken()])
    catalogue.all_causes.cache_clear()
    try:
        assert len(catalogue.all_causes()) == len(CAUSES)
    finally:
        catalogue.all_causes.cache_clear()
