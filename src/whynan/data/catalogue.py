"""A check: one kind of defect, why it matters to a loss, and how it is found. Each stands in a file of `checks`."""

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from whynan.data.finding import Finding, Severity
from whynan.data.options import Options

Subject = Literal["annotations", "image", "mask", "array", "set", "reader"]
"""What `find` is called with: a table of annotations, the facts of one image, mask or array, the overview of the whole
set. A reader reports by itself what it could not read."""


class Check:
    """Base of all checks. The docstring of a check says why a loss cares."""

    slug: ClassVar[str]
    title: ClassVar[str]
    severity: ClassVar[Severity]
    """The usual severity; a finding may have a milder one where what was measured says so."""
    cause: ClassVar[str | None] = None
    """Slug of the cause of `whynan explain` that a training run would end with."""
    fixable: ClassVar[bool] = False
    subject: ClassVar[Subject] = "reader"

    @property
    def why(self) -> str:
        return " ".join((self.__doc__ or "").split())

    def find(self, thing: Any, options: Options) -> Iterator[Finding]:
        """Yield what is wrong with a thing of this check's subject."""
        return iter(())

    def finding(
        self,
        file: str,
        value: object,
        message: str,
        annotation: int | None = None,
        *,
        severity: Severity | None = None,
        fixable: bool | None = None,
        image: str | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> Finding:
        return Finding(
            check=self.slug,
            severity=severity or self.severity,
            file=file,
            annotation=annotation,
            value=str(value),
            message=message,
            cause=self.cause,
            fixable=self.fixable if fixable is None else fixable,
            image=image,
            box=box,
        )


@cache
def all_checks() -> dict[str, Check]:
    """Return every check by its slug."""
    from whynan.data import checks

    found: dict[str, Check] = {}
    for module in pkgutil.iter_modules(checks.__path__):
        content = vars(importlib.import_module(f"{checks.__name__}.{module.name}"))
        for value in content.values():
            if isinstance(value, type) and issubclass(value, Check) and value.__module__.endswith(f".{module.name}"):
                found[value.slug] = value()
    return dict(sorted(found.items()))


@cache
def checks_of(subject: Subject) -> tuple[Check, ...]:
    """Return the checks that look at one subject."""
    return tuple(check for check in all_checks().values() if check.subject == subject)


def look_at(subject: Subject, thing: Any, options: Options) -> Iterator[Finding]:
    """Yield what all checks of a subject find in a thing."""
    for check in checks_of(subject):
        yield from check.find(thing, options)


def report(
    slug: str, file: str, value: object, message: str, annotation: int | None = None, severity: Severity | None = None
) -> Finding:
    """Return the finding of a check that a reader makes itself."""
    return all_checks()[slug].finding(file, value, message, annotation, severity=severity)
