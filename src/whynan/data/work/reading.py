"""Facts of a file: from the cache that came with the unit, or read anew."""

from collections.abc import Callable
from typing import Any

from whynan.data.readers.problems import as_findings, of_os_error
from whynan.data.units import Item, Job, Outcome, pack, unpack

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
