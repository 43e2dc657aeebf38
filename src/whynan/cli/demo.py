"""`whynan demo`: a training run that really fails, in a temporary folder, diagnosed before the user's eyes.

A demo is a folder of `whynan/demos` with a `train.py`, which says what it needs and what it is about; what mends it
stands in `MENDED`.
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

FOLDER = Path(__file__).parents[1] / "demos"
MAIN = "coins"
INCIDENT_STATUS = 3

MENDED: dict[str, dict[str, str]] = {
    "attention": {
        '''"""Grey values as they are in the files, 0 to 255."""''': (
            '''"""Grey values with a mean of about 0 and a deviation of about 1."""'''
        ),
        "torch.from_numpy(np.stack(images)).float(), ": "(torch.from_numpy(np.stack(images)).float() - 128) / 50, ",
    },
    "box-width": {
        "        return image, {": (
            "        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]\n        return image, {"
        ),
    },
    "coins": {"per_image = per_image / n_boxes\n": "per_image = per_image / n_boxes.clamp(min=1)\n"},
    "deeplab": {
        "losses = {name: F.cross_entropy(scores, masks, ignore_index=VOID) for name, scores in outputs.items()}": (
            "known = (masks != VOID).sum().clamp(min=1)\n"
            "    losses = {\n"
            '        name: F.cross_entropy(scores, masks, ignore_index=VOID, reduction="sum") / known\n'
            "        for name, scores in outputs.items()\n"
            "    }"
        ),
    },
    "keras": {
        "a cross entropy written by hand": "a cross entropy of logits",
        "from keras import layers, ops": "from keras import layers",
        "def pixel_cross_entropy(is_coin, p):\n"
        "    return -ops.mean(is_coin * ops.log(p) + (1 - is_coin) * ops.log(1 - p))\n\n\n": "",
        'layers.Conv2D(1, 1, activation="sigmoid")': "layers.Conv2D(1, 1)",
        "loss=pixel_cross_entropy": "loss=keras.losses.BinaryCrossentropy(from_logits=True)",
    },
    "learning-rate": {"lr=0.1": "lr=0.001"},
    "mindspore": {"(ops.square(distance) / (2 * distance)).sum()": "(distance / 2).sum()"},
    "numpy": {"np.exp(scores)": "np.exp(scores - scores.max(axis=1, keepdims=True))"},
    "rpn": {
        "    p = torch.sigmoid(objectness.flatten()[sampled])\n"
        "    is_object = labels[sampled]\n"
        "    log_loss = -(is_object * torch.log(p) + (1 - is_object) * torch.log(1 - p)).mean()\n": (
            "    log_loss = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], labels[sampled])\n"
        ),
    },
    "siamese": {"(a - b).pow(2).sum(dim=1).sqrt()": "((a - b).pow(2).sum(dim=1) + 1e-12).sqrt()"},
    "textures": {"lr=3.0": "lr=0.03"},
    "vae": {"    return table\n": "    return (table - table.median(dim=0).values).clamp(-10, 10)\n"},
}
"""Of each demo the lines of `train.py` that are wrong, and what is to stand in their place."""


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
