"""The table of capabilities is what the code offers and what the document says."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from whynan.adapters import CAPABILITIES, FRAMEWORKS, PROOF, SUPPORTED, refusal, table

ROOT = Path(__file__).parents[3]


def test_document_holds_the_table() -> None:
    assert table() in (ROOT / "docs" / "capabilities.md").read_text(encoding="utf-8")


def test_every_row_answers_for_every_framework() -> None:
    assert all(set(row.offers) == set(FRAMEWORKS) for row in CAPABILITIES)
    assert len({row.slug for row in CAPABILITIES}) == len(CAPABILITIES)


@pytest.mark.parametrize(("slug", "framework"), [(slug, name) for slug, names in PROOF.items() for name in names])
def test_what_is_offered_is_there(slug: str, framework: str) -> None:
    row = next(row for row in CAPABILITIES if row.slug == slug)
    assert row.offers[framework] is not False
    name, path = PROOF[slug][framework]
    thing = importlib.import_module(name)
    for part in path.split("."):
        thing = getattr(thing, part)
    assert callable(thing)


def test_table_is_printed_without_a_framework() -> None:
    code = (
        "import sys; from whynan.cli.main import main\n"
        "sys.argv[:] = ['whynan', 'explain', '--capabilities']\n"
        "main()\n"
        "print(sorted({'numpy', 'torch', 'jax', 'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "guilty sample" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("framework", SUPPORTED)
def test_versions_outside_are_refused_with_what_to_do(framework: str) -> None:
    first, end = SUPPORTED[framework]
    assert refusal(framework, first) is None
    for version, word in (("0.1.0", "older"), (end, "newer")):
        said = refusal(framework, version)
        assert said is not None
        assert version in said
        assert word in said
        assert "goes on unwatched" in said
