"""`whynan demo`: a training run that really fails, in a temporary folder, diagnosed before the user's eyes.

A demo is a folder of `whynan/demos` with a `train.py`, which says what it needs and what it is about; what mends it
stands in `whynan.demos.MENDED`.
"""

import ast
import importlib.util
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click

from whynan.demos import MENDED

FOLDER = Path(__file__).parents[1] / "demos"
MAIN = "coins"
INCIDENT_STATUS = 3


@dataclass(frozen=True)
class Demo:
    name: str
    script: Path

    @cached_property
    def text(self) -> str:
        return self.script.read_text(encoding="utf-8")

    @property
    def fixed(self) -> str:
        """The same script with the smallest right change."""
        text = self.text
        for old, new in MENDED[self.name].items():
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {self.script}"
            text = text.replace(old, new)
        return text

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def title(self) -> str:
        return (ast.get_docstring(self._tree) or "").partition("\n")[0]

    def missing(self) -> list[str]:
        names: set[str] = set()
        for node in self._tree.body:
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
        packages = {name.partition(".")[0] for name in names}
        return sorted(package for package in packages if importlib.util.find_spec(package) is None)


def find_demos() -> dict[str, Demo]:
    scripts = sorted(FOLDER.glob("*/train.py"), key=lambda script: (script.parent.name != MAIN, script))
    return {script.parent.name: Demo(script.parent.name, script) for script in scripts}


def run_demo(found: Demo, name: str = "train.py") -> int:
    """Run it, or its twin, as a user would, in sight; return the status of `whynan run`."""
    folder = Path(tempfile.mkdtemp(prefix=f"whynan-demo-{found.name}-"))
    (folder / "train.py").write_text(found.text, encoding="utf-8")
    (folder / "fixed.py").write_text(found.fixed, encoding="utf-8")
    click.echo(f"{found.title}\n$ {shlex.join(['cd', str(folder)])} && whynan run {name}\n")
    status = subprocess.run([sys.executable, "-m", "whynan", "run", name], cwd=folder, check=False).returncode
    click.echo(f"\nThe script and its report: {folder / name}, {folder / 'whynan-out' / 'report.html'}")
    if name == "train.py":
        click.echo(
            f"The same script with the defect mended: {folder / 'fixed.py'}, or: whynan demo {found.name} --fixed"
        )
    return status


_EXTRAS = {"torch": "torch", "torchvision": "vision", "tensorflow": "tensorflow", "keras": "keras", "jax": "jax",
           "mindspore": "mindspore"}  # fmt: skip
"""Module that a demo imports -> extra of whynan that brings it."""
_PACKAGES = {"skimage": "scikit-image"}
_OF_MOST = {"numpy", "skimage", "torch", "torchvision"}
"""What the extra `demo` brings."""


def _packages_for(missing: list[str]) -> str:
    """Return what pip has to install: a framework as an extra of whynan, which knows the versions that go together."""
    if _OF_MOST.issuperset(missing):
        return "'whynan[demo]'"
    extras = sorted({_EXTRAS[name] for name in missing if name in _EXTRAS})
    rest = sorted({_PACKAGES.get(name, name) for name in missing if name not in _EXTRAS})
    return " ".join([f"'whynan[{','.join(extras)}]'"] * bool(extras) + rest)


@click.command("demo")
@click.argument("name", default=MAIN)
@click.option("--list", "list_them", is_flag=True, help="Name the demos and end.")
@click.option("--fixed", "is_fixed", is_flag=True, help="Run the twin in which the defect is mended.")
def demo(name: str, list_them: bool, is_fixed: bool) -> None:
    """A training run that really fails, diagnosed."""
    demos = find_demos()
    if list_them:
        width = max(map(len, demos))
        for found in demos.values():
            click.echo(f"{found.name:{width}}  {found.title}")
        return
    if name not in demos:
        raise click.UsageError(f"there is no demo {name!r}; there are {', '.join(demos)}")
    if missing := demos[name].missing():
        raise click.ClickException(
            f"demo {name!r} needs {', '.join(missing)}, not installed here: pip install {_packages_for(missing)}"
        )
    status = run_demo(demos[name], "fixed.py" if is_fixed else "train.py")
    expected = 0 if is_fixed else INCIDENT_STATUS
    if status != expected:
        raise click.ClickException(f"`whynan run` ended with status {status}; {expected} was to be expected")
