"""Findings for the non-finite values that were measured in an array or a table."""

from collections.abc import Callable, Iterator

from whynan.data.catalogue import Check
from whynan.data.finding import Finding
from whynan.data.looks import ArrayLook


def find_cells(check: Check, thing: ArrayLook, is_wanted: Callable[[str], bool]) -> Iterator[Finding]:
    """Yield a finding for each non-finite cell (wide rows: each row), and one for those that were only counted."""
    measure = thing.measure
    n_named = {True: 0, False: 0}
    for row, column, kind, n in measure.cells:
        n_named[kind == "nan"] += n
        if not is_wanted(kind):
            continue
        if column is None:
            what = measure.names[0] if measure.names else measure.name
            value = kind if n == 1 else f"{n} {kind}"
            yield check.finding(thing.file, value, f"row {row}: {what} has {value}", row)
            continue
        name = measure.names[column] if measure.names else f"column {column}"
        what = "missing, or nan" if measure.columns and kind == "nan" else kind
        yield check.finding(thing.file, f"{name}={kind}", f"row {row}: {name} is {what}", row)
    missed = (measure.n_nan if is_wanted("nan") else measure.n_inf) - n_named[is_wanted("nan")]
    if missed > 0:
        yield check.finding(thing.file, f"{missed} more", f"{missed} more of them, in rows that are not listed")
