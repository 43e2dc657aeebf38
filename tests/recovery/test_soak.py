"""A short soak: faults of every kind at random places of one run, each undone in its own step and nothing else."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [1])
def test_all_faults_are_found_and_nothing_else(seed: int) -> None:
    result = _module().soak(400, 14, seed)
    assert (result["found"], result["missed"], result["false"]) == (14, [], [])
    assert result["finite"] and result["reproduced"] == result["explained"] > 3


STEPS = SOAK.with_name("soak_steps.py").read_text()
KINDS = re.findall(r"^def (\w+)\(xb, yb, loss\)", STEPS, re.MULTILINE)


@settings(max_examples=2, deadline=None, derandomize=True)
@given(places=st.lists(st.integers(20, 199), unique=True, min_size=6, max_size=10), data=st.data())
def test_faults_in_places_that_hypothesis_chooses(places: list[int], data: st.DataObject) -> None:
    faults = [(place, data.draw(st.sampled_from(KINDS))) for place in sorted(places)]
    result = _module().soak(200, faults, 0)
    assert (result["found"], result["missed"], result["false"]) == (len(faults), [], []), faults
    assert result["finite"]
