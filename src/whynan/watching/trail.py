"""Numbers by name of the last steps, as watching has read them: gradient norms, updates, loss terms."""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from whynan.records import LookBack

MOST_STEPS = 64
_MOST_LAYERS = 40
Rows = Mapping[int, Mapping[str, float]]
"""Numbers by step and name."""


class Trail:
    """The last steps of a run of a framework whose steps are not run once more to look back."""

    def __init__(self) -> None:
        self.weights: Collection[str] | None = None
        """The arrays that are trained, where others have updates too; known when a step has been traced."""
        self._kept: dict[str, deque[tuple[int, Mapping[str, float]]]] = {}

    def note(self, step: int, what: str, values: Mapping[str, float]) -> None:
        """Keep a step's values: `what` is grad_norm, update_ratio or terms."""
        if not values:
            return
        rows = self._kept.setdefault(what, deque(maxlen=MOST_STEPS))
        while rows and rows[-1][0] >= step:
            rows.pop()  # undone by a recovery
        rows.append((step, values))

    def look_back(self, last: int, terms: Mapping[str, float], why: str) -> LookBack | None:
        """Return the steps up to `last`, of which the loss terms are known; None where there is too little."""
        norms, ratios, said = (
            {step: row for step, row in self._kept.get(what, ()) if step <= last}
            for what in ("grad_norm", "update_ratio", "terms")
        )
        if self.weights is not None:
            ratios = {step: {n: v for n, v in row.items() if n in self.weights} for step, row in ratios.items()}
        names = dict.fromkeys(name for rows in (norms, ratios) for row in rows.values() for name in row)
        return look_back(last, (norms, ratios, {}), names, said, terms, "the updates of each array", why)


def look_back(
    last: int,
    tables: tuple[Rows, Rows, Rows],
    layers: Iterable[str],
    said: Rows,
    terms: Mapping[str, float],
    updates: str,
    why: str,
) -> LookBack | None:
    """Return what was seen of the steps up to `last`; None where that is too little to see anything.

    `tables` are gradient norms, updates against weights and activations, each of the `layers`. Of the numbers `said`
    those are loss terms whose names `terms` has, with their values in the last step. `updates` says what is known of
    updates, `why` why nothing else was measured.
    """
    said = {step: {n: v for n, v in row.items() if n in terms} for step, row in said.items()}
    said |= {last: dict(terms)} if terms else {}
    steps = sorted({*said, *(step for table in tables for step in table)})[-MOST_STEPS:]
    if len(steps) < 2:
        return None
    names = [name for name in layers if any(name in row for table in tables for row in table.values())]
    names = most_telling(names, [tables[0].get(step, {}) for step in steps])
    rows = [tuple(tuple(table.get(k, {}).get(name) for k in steps) for name in names) for table in tables]
    rows = [table if any(v is not None for row in table for v in row) else () for table in rows]
    told = {name: tuple(said.get(k, {}).get(name) for k in steps) for name in terms}
    told = {name: values for name, values in told.items() if sum(v is not None for v in values) > 1}
    found = (
        (rows[0], "gradient norms where there was time to read them all"),
        (rows[1], updates),
        (rows[2], "activations of the failing step"),
        (told, "loss terms"),
    )
    if not any(seen for seen, _ in found):
        return None
    note = f"As far as watching has read it: {', '.join(words for seen, words in found if seen)}."
    if steps[-1] - steps[0] >= len(steps):
        note += " Steps of which nothing was read are left out: columns are not evenly apart in time."
    note += f" More was not measured, since the steps were not run once more: {why}."
    return LookBack(tuple(steps), tuple(names), rows[0], rows[1], rows[2], told, note)


def most_telling(names: list[str], norms: Sequence[Mapping[str, float]]) -> list[str]:
    """Return at most `_MOST_LAYERS` layers in their order: those with the largest gradients in the last steps."""
    if len(names) <= _MOST_LAYERS:
        return names

    def weight(name: str) -> float:
        values = [row[name] for row in norms[-8:] if name in row]
        return max((v if math.isfinite(v) else math.inf for v in values), default=0.0)

    kept = set(sorted(names, key=weight, reverse=True)[:_MOST_LAYERS])
    return [name for name in names if name in kept]
