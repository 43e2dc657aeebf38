"""From a non-finite iteration of a NumPy loop to an incident."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from whynan.adapters.common import run as runs
from whynan.adapters.common.arrays import Part, all_finite, batch_size, is_target, kind_of, to_numpy
from whynan.adapters.common.arrays import parts_of as named_parts
from whynan.adapters.common.body import Again, Reached
from whynan.adapters.common.data.reread import look_in_data, of_users
from whynan.adapters.common.experiments import find_samples
from whynan.adapters.common.explain import Found, Step, explained, replayed
from whynan.adapters.common.namespaces import user_arrays
from whynan.adapters.common.run import Run
from whynan.adapters.numpy.replay import Recorder, answering
from whynan.records import History, Incident, OptimizerFacts, Precision, Sample, Stage, Symptom, What
from whynan.report import Progress
from whynan.snapshot import target_names


class Host(Protocol):
    """Whoever watches such loops: what it records operations with, its run and window, how it tries remedies."""

    recorder: type[Recorder]
    run: Run
    window: "Window"

    def bench(self, again: Again, seen: "Seen", deadline: float) -> "Bench": ...


if TYPE_CHECKING:
    from whynan.adapters.numpy.experiments import Bench, Window

VALIDATION = re.compile(r"(val|valid|validation|test|dev|eval|holdout)(?![a-z])", re.IGNORECASE)
"""How a loss is called that nothing is trained with."""
RATES = ("lr", "learning_rate", "alpha", "eta", "step_size", "rate", "LR", "LEARNING_RATE")


@dataclass
class Seen:
    """One traced run of the body: its recorder, what of it is not finite, and its loss's value."""

    recorder: Recorder
    starts: list[int]
    loss: int | None
    name: str
    value: Any
    is_bad: bool = False


def explain(host: Host, again: Again, bad: list[str], loss_name: str | None, deadline: float) -> Incident | None:
    """Run the iteration again with every operation seen; say where its first bad number comes from, None if meant.

    `bad` are the names that are not finite: the loss alone, or all arrays that were updated.
    """
    with Progress() as progress:
        progress.stage(f"{bad[0]} is not finite at step {host.run.n_steps}; running the iteration again")
        seen = trace(host, again, bad)
        reproduced = bool(seen.starts)
        found = seen.recorder.graph.slice(seen.starts) if reproduced else None
        if reproduced and found is None:
            return None
        if found is not None and found.leaf is not None and found.leaf.constant and not _is_data(again, seen):
            return None  # it came that way, and no operation of the step has made it
        first = found.origin if found is not None else None
        if first is not None and loss_name and first.name == "float" and not first.edges:
            return None  # `float("inf")`: the script's own word for a failed trial
        rate = plain_rate(again, seen)
        again.plain = (rate, weights_of(again, seen)) if rate is not None else None
        value = kind_of(to_numpy(seen.value)) or "nan"
        what: What = "loss" if loss_name else "parameter"
        stage: Stage = "validation" if loss_name and VALIDATION.match(loss_name) else "train"
        symptom = Symptom(what, seen.name, value, host.run.n_steps, epoch_of(again), stage, "a variable of the loop")
        parts = parts_of(seen) or header_parts(again)
        step = Step(
            symptom=symptom,
            replay=replayed(not reproduced, None, "run again, the iteration was finite"),
            framework=host.recorder.framework,
            graph=seen.recorder.graph,
            starts=tuple(seen.starts),
            loss=seen.loss,
            parts=parts,
            history=history_of(host, again, seen),
            optimizer=optimizer_of(again),
            precision=Precision(parameters="float64"),
        )
        return explained(
            host.run,
            step,
            not reproduced,
            lambda: samples_of(again, seen, deadline),
            lambda step: look_in_data(step, of_users, deadline),
            lambda: host.bench(again, seen, deadline),
            deadline,
            progress,
        )


def trace(host: Host, again: Again, names: list[str]) -> Seen:
    recorder = host.recorder(again.function)
    updated = again.before.changed(again.after.reached)
    again.before.restore(again.frame)
    for label, array in again.before.reached.arrays.values():
        role = "parameter" if label in updated else "batch"
        recorder.know(array, role if array.dtype.kind == "f" else "target", label)  # type: ignore[arg-type]
    seen = again.run(answering(recorder), lambda values: [seen_in(recorder, values, name) for name in names])
    return min(seen, key=_began) if len(seen) > 1 else seen[0]


def _began(seen: Seen) -> float:
    """When the first bad number of a name was made: `exp(-inf)` is 0, so that later ones may not lead back to it."""
    found = seen.recorder.graph.slice(seen.starts)
    return found.origin.index if found is not None and found.origin is not None else math.inf


def seen_in(recorder: Recorder, values: dict[str, Any], name: str) -> Seen:
    value = values.get(name)
    if value is None:
        arrays = dict(Reached(values).arrays.values())
        value = arrays.get(name)
    if isinstance(value, list) and value:
        value = value[-1]
    array = to_numpy(value) if value is not None else None
    is_bad = array is not None and not all_finite(array)
    starts = []
    loss = None
    if value is not None and recorder.is_tracing:
        number = recorder.number_of(value)
        if array is not None and array.size == 1:
            loss = number
        if is_bad:
            starts.append(number)
            recorder.graph.bad.setdefault(number, np.array(array))
    return Seen(recorder, starts, loss, name, np.array(value) if array is not None else value, is_bad)


def _is_data(again: Again, seen: Seen) -> bool:
    """Whether data that the script holds is what came in bad."""
    return any(not all_finite(array) for _, array in again.before.reached.arrays.values() if array.dtype.kind == "f")


def parts_of(seen: Seen) -> tuple[Part, ...]:
    found = []
    for _, owner, _, result in seen.recorder.gathers:
        number = seen.recorder.number_of(owner)
        known = seen.recorder.graph.values.get(number)
        if known is None or known.role == "parameter":
            continue
        name = known.name or "x"
        found.append(Part(name, "target" if is_target(name) else "batch", np.asarray(result)))
    return tuple(found)


def header_parts(again: Again) -> tuple[Part, ...]:
    """Return the arrays that the loop's header has bound: the batch of a generator or a loader."""
    names = [name for name in target_names(again.site) if name in again.before.values]
    return named_parts([(name, again.before.values[name]) for name in names])


def samples_of(again: Again, seen: Seen, deadline: float) -> Found:
    """Find the guilty rows of what was picked out of the data; their indices are those of the pick."""
    gathers = data_gathers(seen)
    if not gathers:
        return _of_header(again, seen, deadline) or told_by_elements(seen), None
    sizes = [len(g[3]) for g in gathers]
    size = max(set(sizes), key=sizes.count)
    if size < 2:
        return (), None
    owners = {id(g[1]) for g in gathers}
    fails_with = lambda rows: fails(again, seen.name, rows, size, owners)  # noqa: E731
    symptom = (seen.recorder.graph, seen.starts)
    found, note = find_samples(parts_of(seen), size, symptom, fails_with, lambda: [g[1] for g in gathers], deadline)
    first = next(g for g in gathers if len(g[3]) == size)
    picked = [index_of(first[1], first[2], sample.position or 0) for sample in found]
    return tuple(replace(s, index=s.index if index is None else index) for s, index in zip(found, picked)), note


def _of_header(again: Again, seen: Seen, deadline: float) -> tuple[Sample, ...]:
    """Find the guilty rows of a batch that the loop's header has bound."""
    parts = header_parts(again)
    size = batch_size(parts) or 0

    def fails_with(rows: list[int]) -> bool:
        recorder = Recorder(again.function, is_tracing=False)
        look = partial(seen_in, recorder, name=seen.name)
        return again.run(answering(recorder), look, header_rows(again, rows)).is_bad

    symptom = (seen.recorder.graph, seen.starts)
    return find_samples(parts, size, symptom, fails_with, lambda: user_arrays(batch_size=size), deadline)[0]


def header_rows(again: Again, rows: list[int]) -> Callable[[dict[str, Any]], None]:
    """Return a change of names: of the arrays that the loop's header has bound row rows[i] in place i."""

    def change(values: dict[str, Any]) -> None:
        for name in target_names(again.site):
            value: Any = values.get(name)
            if hasattr(value, "dtype") and np.ndim(value) and len(value) == len(rows):
                values[name] = value[np.asarray(rows)]

    return change


def told_by_elements(seen: Seen) -> tuple[Sample, ...]:
    """Return the one row that the origin's bad elements lie in, where the step takes whole arrays of the data."""
    found = seen.recorder.graph.slice(seen.starts)
    origin = found.origin if found is not None else None
    rows = {element[0] for element in origin.elements if element} if origin is not None else set()
    if origin is None or len(rows) != 1 or origin.output is None or origin.output.shape[0] < 2:
        return ()
    size = origin.output.shape[0]
    data = [v for v in seen.recorder.graph.values.values() if v.role in ("batch", "target") and v.array is not None]
    if not any(value.array.ndim and len(value.array) == size for value in data):
        return ()
    row = rows.pop()
    return (Sample(row, row, None, f"the elements that {origin.name} makes non-finite lie in this row alone"),)


def _is_batch(seen: Seen, owner: Any) -> bool:
    known = seen.recorder.graph.values.get(seen.recorder.number_of(owner))
    return known is not None and known.role in ("batch", "target")


def data_gathers(seen: Seen) -> list[tuple[int, Any, Any, Any]]:
    """Return the picks of rows out of the data; a pick of indices that another one uses is none."""
    indices = {id(index) for _, _, index, _ in seen.recorder.gathers}
    return [g for g in seen.recorder.gathers if _is_batch(seen, g[1]) and id(g[3]) not in indices]


def fails(again: Again, name: str, rows: list[int], size: int, owners: set[int]) -> bool:
    recorder = Recorder(again.function, is_tracing=False)
    recorder.on_rows = lambda owner, index, result: (
        result[np.asarray(rows)] if len(result) == size and id(owner) in owners else result
    )
    seen = again.run(answering(recorder), lambda values: seen_in(recorder, values, name))
    return seen.is_bad


def index_of(owner: Any, index: Any, row: int) -> int | None:
    if isinstance(index, slice):
        return range(*index.indices(len(owner)))[row]
    try:
        return int(np.asarray(index)[row])
    except (IndexError, TypeError, ValueError):
        return None


def epoch_of(again: Again) -> int | None:
    for name in ("epoch", "ep", "epoch_index"):
        value = again.before.values.get(name)
        if isinstance(value, int):
            return value
    return None


def weights_of(again: Again, seen: Seen) -> set[str]:
    """Return the names of the arrays that an iteration uses and changes.

    What is made anew in each iteration, as a gradient is, changes too; a weight is used as it was before.
    """
    graph = seen.recorder.graph
    used = {graph.values[number].name for node in graph.nodes for number in node.inputs if number in graph.values}
    return {name for name in again.before.changed(again.after.reached) & used if name is not None}


def plain_rate(again: Again, seen: Seen) -> float | None:
    """Return the learning rate, where each weight is updated by `weight - rate * gradient` and by nothing else.

    None where that can't be said: with a momentum what is subtracted is no gradient, and a rate that the code computes
    in place may hold a batch's size too.
    """
    known = {name: seen.recorder.rates.get(id(array)) for name, array in again.before.reached.arrays.values()}
    found = {known.get(name) for name in weights_of(again, seen)}
    if len(found) != 1 or (rate := found.pop()) is None:
        return None
    named = rate_in(again.after.values, again.frame.f_globals)
    return rate[0] if rate[0] > 0 and (not rate[1] or rate[0] == named) else None


def history_of(host: Host, again: Again, seen: Seen) -> History:
    updated = weights_of(again, seen)
    now = runs.measure(
        (name, copy) for name, _, copy in again.before.copies if name in updated and copy.dtype.kind == "f"
    )
    host.run.trail.weights = set(now)
    first = {name: known for name, known in host.window.measured.items() if name in now}
    rate = rate_of(again)
    return replace(runs.history_of(host.run, now, first), lr=(rate,) if rate is not None else ())


def rate_of(again: Again) -> float | None:
    return rate_in(again.before.values, again.frame.f_globals)


def rate_in(*spaces: dict[str, Any]) -> float | None:
    """Return the number that is called like a learning rate, in the first of these namespaces that has it."""
    for name in RATES:
        value = next((space[name] for space in spaces if name in space), None)
        if isinstance(value, float):
            return value
    return None


def optimizer_of(again: Again) -> OptimizerFacts | None:
    rate = rate_of(again)
    return OptimizerFacts("sgd", rate) if rate is not None else None
