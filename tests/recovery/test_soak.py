"""A short soak: faults of every kind at random places of one run, each undone in its own step and nothing else."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

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
