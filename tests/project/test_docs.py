"""What the documents say is so: their commands, options, targets, links and code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
IDS = [str(document.relative_to(ROOT)) for document in DOCUMENTS]


def whynan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "whynan", *arguments], capture_output=True, text=True, check=False)


def code_of(text: str) -> str:
    """The code of a document: its blocks and what stands between backquotes."""
    return "\n".join(re.findall(r"`+([^`]+)`+", text))


def test_there_are_documents() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= set(IDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    for link in links:
        assert "://" in link or (document.parent / link).exists() or _is_generated(document, link), link


def _is_generated(document: Path, link: str) -> bool:
    """Whether a link leads to a page that is made of the catalogue (docs/catalogue.py)."""
    from whynan.diagnosis import catalogue

    found = re.fullmatch(r"(?:\.\./)?(causes|remedies)/([a-z-]+)\.md", link)
    if found is None or ROOT / "docs" not in document.parents:
        return False
    entries = catalogue.all_causes() if found.group(1) == "causes" else catalogue.all_remedies()
    return found.group(2) in ("index", *(entry.slug for entry in entries))


def test_commands_exist() -> None:
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"\bwhynan ([a-z]+)\b", code_of(document.read_text(encoding="utf-8")))
    }
    assert named >= {"run", "report", "explain", "demo"}
    for name in named:
        assert whynan(name, "--help").returncode == 0, f"whynan {name}"


def test_options_of_run_exist() -> None:
    listed = re.findall(r"^- `(--[a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(listed) >= 4
    help_text = whynan("run", "--help").stdout
    assert [option for option in listed if option not in help_text] == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        for named in re.findall(r"\bmake ([a-z]+)\b", code_of(document.read_text(encoding="utf-8"))):
            assert named in targets, f"{document.name}: make {named}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_python_parses(document: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        ast.parse(block)


def test_scripts_named_in_documents_exist() -> None:
    for document in DOCUMENTS:
        for script in re.findall(r"\b(benchmarks/\w+\.py)\b", document.read_text(encoding="utf-8")):
            assert (ROOT / script).exists(), script


def complete_examples() -> list[tuple[str, str]]:
    """Python blocks that import a framework, and so bring all that they use."""
    return [
        (document.name, block)
        for document in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
        for block in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
        if re.search(r"^import (torch|keras|jax)$", block, re.MULTILINE)
    ]


@pytest.mark.parametrize(("document", "block"), complete_examples())
def test_examples_run(document: str, block: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(block)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "site" / "causes" / "log-of-zero" / "index.html").read_text(encoding="utf-8")
    assert "logarithm of an exact 0" in text


def test_the_comparison_has_the_benchmarks_numbers() -> None:
    measured = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    compared = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    for name, own in re.findall(r"^\| (\w+) \| ([\d.]+ %) / ", measured, re.MULTILINE):
        assert f"| {name} | {own} |" in compared or name in ("deeplabv3", "fasterrcnn")
    numbers = re.findall(r"\u00d7[\d.]+|\b1[01]\.\d\b|\b[01]\.\d+ %|\b1\.\d\d\b", compared)
    assert len(numbers) >= 12
    for number in numbers:
        assert number in measured, number
    assert "whynan 11, sherlorch 7, torchlens 6, anomaly mode 4" in " ".join(compared.split())
    assert "whynan 11, sherlorch 7, torchlens 6, anomaly mode 4" in " ".join(measured.split())
