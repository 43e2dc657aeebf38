"""Real sets of the folder that WHYNAN_DATASETS names, each with a truth.json: all of it is found, no more."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.data.conftest import look, told

ROOT = os.environ.get("WHYNAN_DATASETS")
SETS = sorted(place.parent for place in Path(ROOT).glob("*/truth.json")) if ROOT else []
ALIASES = {"size-tag-zero": "size-mismatch"}

pytestmark = pytest.mark.skipif(not ROOT, reason="WHYNAN_DATASETS names no folder of data sets")


def truth_of(folder: Path) -> set[tuple[str, str, int | None]]:
    """(check, file, annotation) of each defect, in the words of data.json: arrays by key, features by column."""
    made = set()
    for defect in json.loads((folder / "truth.json").read_text()):
        check = defect["defect"].replace("_", "-")
        file, annotation = defect["file"], defect["annotation"]
        if "array" in defect:
            file = f"{file}:{defect['array']}"
            annotation = defect["column"] if annotation is None else annotation
        made.add((ALIASES.get(check, check), file, annotation))
    return made


@pytest.mark.parametrize("folder", SETS, ids=[folder.name for folder in SETS])
def test_every_defect_is_found(folder: Path) -> None:
    found = told(look(folder))
    assert truth_of(folder) - found == set()


@pytest.mark.parametrize("folder", SETS, ids=[folder.name for folder in SETS])
def test_no_error_beyond_the_truth(folder: Path) -> None:
    truth = truth_of(folder)
    spoken_of = {file.partition(":")[0] for _, file, _ in truth}
    errors = told(look(folder), "error")
    # A file that no truth speaks of was not examined by whom the truth comes from, unless the whole set is clean.
    beyond = {each for each in errors - truth if not truth or each[1].partition(":")[0] in spoken_of}
    assert beyond == set()
    if {check for check, _, _ in errors} - {"value-nan"}:
        assert errors <= truth


def cells(folder: Path) -> list[dict[str, Any]]:
    return [defect for defect in json.loads((folder / "truth.json").read_text()) if defect["defect"] == "value_nan"]


@pytest.mark.parametrize("folder", [f for f in SETS if cells(f)], ids=[f.name for f in SETS if cells(f)])
def test_each_cell_is_a_finding_of_its_own(folder: Path) -> None:
    files = {f"{defect['file']}:{defect['array']}" for defect in cells(folder)}
    found = [f for f in look(folder).findings if f.check == "value-nan" and f.file in files]
    assert len(found) == len(cells(folder))
