"""Every check of the review, asked in turn; one that fails is passed over."""

import importlib
import pkgutil

from whynan.check import review as package
from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts

_SEVERITY = {"error": 0, "warning": 1, "note": 2}


def review(facts: StepFacts) -> list[Finding]:
    """Return what every file of this folder with a function `find` has to say, worst first."""
    found: list[Finding] = []
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        find = getattr(module, "find", None)
        if find is None:
            continue
        try:
            found += find(facts)
        except (ArithmeticError, ValueError, IndexError, KeyError, TypeError, AttributeError):
            continue
    unique = {(f.check, f.file, f.line, f.message): f for f in found}
    return sorted(unique.values(), key=lambda f: (_SEVERITY[f.severity], f.check, f.line or 0))
