"""What a reader could not read: plain tuples in the facts of a file, findings later."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from whynan.data.finding import Finding, report
from whynan.data.units import Item, Job, Outcome, pack, unpack

Problem = tuple[str, int | None, str, str]
"""Slug of the check, index of the annotation, value, message."""


def as_findings(file: str, problems: Iterable[Problem]) -> Iterator[Finding]:
    """Yield the problems of a file as findings; a slug may carry a severity, "annotation-unreadable:warning"."""
    for slug, annotation, value, message in problems:
        name, _, severity = slug.partition(":")
        yield report(name, file, value, message, annotation, severity or None)  # type: ignore[arg-type]


def of_os_error(slug: str, error: OSError) -> Problem:
    """Return the problem of a file that could not be opened or read."""
    if isinstance(error, FileNotFoundError):
        return slug, None, "vanished", "the file vanished during the scan"
    if isinstance(error, PermissionError):
        return slug, None, "permission denied", "no permission to read this file"
    reason = error.strerror or str(error) or type(error).__name__
    return slug, None, reason, f"the file cannot be read: {reason}"


def shown(text: object, limit: int = 60) -> str:
    """Return a value as one short line of printable characters."""
    line = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(line.split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


Read = Callable[[bytes], Any]


def facts_of(job: Job, item: Item, kind: str, outcome: Outcome, read: Read, slug: str) -> Any | None:
    """Return what `read` makes of the file's bytes; None, with a finding of `slug`, where it cannot be opened."""
    if item.facts is not None:
        return unpack(item.facts)
    try:
        data = job.storage.read(item.name)
    except OSError as error:
        outcome.findings.add(as_findings(item.name, [of_os_error(slug, error)]))
        return None
    except MemoryError:
        outcome.findings.add(as_findings(item.name, [(slug, None, "memory", "there is not enough memory to read it")]))
        return None
    outcome.n_read += 1
    facts = read(data)
    if job.is_kept:
        outcome.fresh.append((kind, item.name, pack(facts)))
    return facts
