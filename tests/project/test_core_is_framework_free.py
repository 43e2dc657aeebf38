"""The core imports no framework: proved in a fresh process, and then that the proof can fail."""

import subprocess
import sys

FRAMEWORKS = ("torch", "torchvision", "tensorflow", "keras", "jax", "mindspore", "numpy")

# The parts and callbacks are made for a framework each; a module of theirs imports it, and their package does not.
PARTS = (
    "whynan.ignite",
    "whynan.lightning",
    "whynan.mmengine",
    "whynan.transformers",
    "whynan.ultralytics",
    "whynan.torch.",
    "whynan.keras.",
    "whynan.jax.",
    "whynan.mindspore.",
    "whynan.numpy.",
)

IMPORT_CORE = f"""
import importlib, pkgutil, sys, whynan
LEFT_OUT = ("whynan.adapters.torch", "whynan.data.", "whynan.demos", "whynan.__main__",
            "whynan.adapters.tensorflow.", "whynan.adapters.keras.", "whynan.adapters.jax.",
            "whynan.adapters.numpy.", "whynan.adapters.mindspore.", *{PARTS!r})
def walk(path, prefix):
    # pkgutil.walk_packages would import what is left out to look inside.
    for module in pkgutil.iter_modules(path, prefix):
        if not module.name.startswith(LEFT_OUT) or module.name.endswith(".capabilities"):
            yield module.name
            if module.ispkg:
                yield from walk(importlib.import_module(module.name).__path__, module.name + ".")
names = list(walk(whynan.__path__, "whynan."))
assert len(names) > 20, names
for name in names:
    importlib.import_module(name)
EXTRA
found = [name for name in {FRAMEWORKS!r} if name in sys.modules]
sys.exit(f"imported: {{found}}" if found else 0)
"""


def import_core(extra: str = "") -> subprocess.CompletedProcess[str]:
    code = IMPORT_CORE.replace("EXTRA", extra)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_core_imports_no_framework() -> None:
    done = import_core()
    assert done.returncode == 0, done.stderr


def test_that_proof_can_fail() -> None:
    done = import_core("import numpy")
    assert done.returncode == 1
    assert "imported: ['numpy']" in done.stderr
