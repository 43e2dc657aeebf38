"""From a replayed step's graph to an incident: the origin's facts that causes are matched on, and the diagnosis."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from whynan.adapters.common.arrays import Part, all_finite, describe, is_floating
from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.namespaces import find_terms
from whynan.adapters.common.positions import SPOKEN, calling_frame, source_line, spoken_name
from whynan.adapters.common.prove import Bench, prove
from whynan.adapters.common.run import Run, action_of
from whynan.diagnosis.catalogue import incident_of
from whynan.records import (
    BadLeaf,
    Evidence,
    History,
    Incident,
    Op,
    OptimizerFacts,
    PathStep,
    Phase,
    Precision,
    ReplayResult,
    Sample,
    SourceLine,
    Symptom,
    TensorSummary,
)
from whynan.report import Progress
from whynan.trace import OpRecord, Slice

_SQUASHES = {"sigmoid", "softmax", "log_softmax", "clip", "clip_by_value", "log_sigmoid", "maximum", "minimum"}
_LAYERS = {"matmul", "conv2d", "conv", "einsum"}
_SPREADS = {"std", "var", "squared_difference", "moments", "nanstd", "nanvar"}
_NORMALISES = {"div", "sqrt", "rsqrt", "std", "var", "reciprocal", "norm"}
_NEAR = 8


def special_facts(graph: Graph, found: Slice) -> dict[str, Any]:
    """Return fields of `Evidence` by name, as far as the graph tells them."""
    record = found.origin
    facts: dict[str, Any] = {"extra": {}}
    if record is None:
        return facts
    node = graph.nodes[record.index]
    arrays = graph.kept.get(record.index, {})
    near = [ancestor.name for ancestor in graph.ancestors(node.inputs)]
    facts["intended_infinity"] = found.intended
    facts["masked_rows"] = _masked_rows(record, arrays)
    facts["reduces_nothing"] = _reduces_nothing(graph, node, arrays)
    facts["in_custom_function"] = record.custom
    facts["custom_input_nonfinite"] = bool(record.edges)
    facts["through_where"] = _through_where(graph, node, found)
    facts["zero_variance"] = _zero_variance(graph, node, facts["reduces_nothing"])
    facts["logits_as_probabilities"] = _takes_logits(record, near)
    facts["extra"]["made_by"] = near
    return facts


def _masked_rows(record: OpRecord, arrays: dict[int, Any]) -> int:
    if not (record.name in ("sub", "exp") or "softmax" in record.name or "logsumexp" in record.name):
        return 0
    first = arrays.get(0)
    if first is None or not is_floating(first) or first.ndim == 0:
        return 0
    return int((first == -float("inf")).all(axis=-1).sum())


def _reduces_nothing(graph: Graph, node: Node, arrays: dict[int, Any]) -> bool:
    first = arrays.get(0)
    if first is not None and first.size == 0:
        return True
    if node.name in ("std", "var") and first is not None and first.size == 1 and node.phase == "forward":
        return True
    if node.name not in ("div", "mean", "std", "var"):
        return False
    # A mean over nothing is 0 / 0, with a sum of nothing above.
    for ancestor in graph.ancestors(node.inputs, 3):
        sizes = [_size(graph, value) for value in ancestor.inputs]
        if ancestor.name in ("sum", "mean") and sizes and sizes[0] == 0:
            return True
        # With n - 1 below, a spread of one item is 0 / 0: its sum sums nothing up.
        made = _size(graph, ancestor.outputs[0])
        if node.called in ("std", "var") and ancestor.name == "sum" and sizes and sizes[0] == made:
            return _size(graph, node.inputs[1]) == 1
    return False


def _size(graph: Graph, value: int) -> int | None:
    known = graph.values.get(value)
    if known is not None and known.array is not None:
        return int(known.array.size)
    return graph.n_elements.get(value)


def _through_where(graph: Graph, node: Node, found: Slice) -> bool:
    """Whether a `where` of the forward pass drops what the origin's operation made."""
    forward = node.index if node.phase == "forward" else node.forward
    if forward is None:
        return False
    is_met_in_backward = node.phase == "backward" or any(step.phase == "backward" for step in found.path)
    if not is_met_in_backward:
        return False
    for later in graph.descendants(forward):
        if later.phase != "forward" or later.name != "where":
            continue
        drops = any(value in graph.bad for value in later.inputs) and later.index not in graph.kept
        if drops or (node.phase == "backward" and _has_zero_gradient(graph, found)):
            return True
    return False


def _has_zero_gradient(graph: Graph, found: Slice) -> bool:
    """Whether, on the way to the symptom, a NaN was made by a gradient that a `where` had set to 0."""
    for record in found.path:
        if record.kind != "nan" or record.name not in ("mul", "div"):
            continue
        inputs = graph.nodes[record.index].inputs
        for place, array in graph.kept.get(record.index, {}).items():
            if array is not None and all_finite(array) and bool((array == 0).any()):
                above = graph.ancestors(inputs[place : place + 1], _NEAR)
                if any(node.name == "where" and node.phase == "backward" for node in above):
                    return True
    return False


def _zero_variance(graph: Graph, node: Node, reduces_nothing: bool) -> bool:
    if node.module_type is not None and "normalization" in node.module_type.lower() and node.name in _NORMALISES:
        return True
    if node.name not in _NORMALISES or reduces_nothing:
        return False
    if node.name in ("std", "var"):
        return True
    near = graph.ancestors(node.inputs if node.forward is None else graph.nodes[node.forward].inputs, _NEAR)
    return any(other.name in _SPREADS or other.called in _SPREADS for other in near)


def _takes_logits(record: OpRecord, near: list[str]) -> bool:
    """Whether a logarithm (of a loss) got what a layer put out, with no squashing function between."""
    if record.name not in ("log", "log2", "log10", "log1p", "xlogy") or record.phase != "forward":
        return False
    for name in near:
        if name in _SQUASHES or name == "div":
            return False
        if name in _LAYERS:
            return True
    return False


_MAX_PATH = 60
_MOVES = {"identity", "reshape", "transpose", "cast", "convert_element_type", "broadcast_in_dim", "squeeze", "name",
          "expand_dims", "broadcast_to", "read_variable", "stop_gradient", "identity_n"}  # fmt: skip
"""Ops that only move values: a reader of a path gains nothing by them."""


@dataclass
class Step:
    """A failing step as an adapter hands it over. `starts` are the symptom's values, `loss` that of the loss."""

    symptom: Symptom
    replay: ReplayResult
    framework: str
    graph: Graph | None = None
    starts: tuple[int, ...] = ()
    loss: int | None = None
    parts: tuple[Part, ...] = ()
    samples: tuple[Sample, ...] = ()
    history: History = field(default_factory=History)
    optimizer: OptimizerFacts | None = None
    precision: Precision = field(default_factory=Precision)
    loss_function: str | None = None
    loss_inputs: tuple[TensorSummary, ...] = ()
    labels_out_of_range: tuple[tuple[int, float], ...] = ()
    line: SourceLine | None = None
    """Where the program stood: the line of a symptom that could not be traced, or of a call into a library."""
    error: str | None = None
    data: Op | None = None
    """The operation of the data set's own code that made a bad value of the batch, where it was read again."""
    notes: list[str] = field(default_factory=list)


def evidence_of(step: Step) -> tuple[Evidence, Slice | None]:
    """Return everything measured on the step, and the slice that the origin came from."""
    found = step.graph.slice(step.starts) if step.graph is not None else None
    batch = replace(describe(step.parts), labels_out_of_range=step.labels_out_of_range)
    origin, bad_leaf = None, None
    path: tuple[PathStep, ...] = ()
    special: dict[str, Any] = {}
    if found is not None and step.graph is not None:
        path = _path(found, step.graph)
        special = special_facts(step.graph, found)
        if found.origin is not None:
            origin = _origin_op(found.origin, step.graph)
        elif found.leaf is not None:
            bad_leaf = BadLeaf(found.leaf.summary, -1 if step.symptom.step == 0 else None)
            origin = step.data or _leaf_op(found, bad_leaf, path, step.loss_function)
    elif step.line is not None and step.symptom.what == "parameter":
        origin = Op("step", "optimizer", "optimizer", step.line)
    if origin is not None and origin.source.line is None and step.line is not None:
        # Nobody has seen the layer or the loss being made: the call that led there is what is known.
        origin = replace(origin, source=step.line)
    terms = find_terms(step.graph, step.loss, _origin_index(found)) if step.graph is not None else ()
    evidence = Evidence(
        symptom=step.symptom,
        replay=step.replay,
        framework=step.framework,
        origin=origin,
        path=path,
        bad_leaf=bad_leaf,
        samples=step.samples,
        loss_terms=terms,
        history=step.history,
        optimizer=step.optimizer,
        precision=step.precision,
        batch=batch,
        loss_function=step.loss_function,
        loss_inputs=step.loss_inputs,
        error=step.error,
        **special,
    )
    return evidence, found


def _origin_index(found: Slice | None) -> int | None:
    return found.origin.index if found is not None and found.origin is not None else None


def line_of(node: Node) -> SourceLine:
    """Return the user's line of an operation: its innermost frame, else where the layer or loss was made."""
    if node.stack:
        return source_line(node.stack[0])
    return node.made if node.made is not None else SourceLine(None, None, None, None)


def op_name(node: Node, graph: Graph) -> str:
    """Return the name that a reader knows the operation by; of a derivative, that of the forward operation."""
    forward = graph.nodes[node.forward] if node.forward is not None else None
    if forward is not None and node.phase == "backward":
        return spoken_name(forward.name, forward.called)
    return spoken_name(node.name, node.called)


def _origin_op(record: OpRecord, graph: Graph) -> Op:
    node = graph.nodes[record.index]
    return Op(
        op=op_name(node, graph),
        framework_op=record.framework_op,
        phase=record.phase,
        source=line_of(node),
        module=record.module,
        module_type=record.module_type,
        inputs=record.inputs,
        output=record.output,
        elements=record.elements,
        args={**record.args, **({"called": node.called} if node.called in SPOKEN else {})},
    )


def _leaf_op(found: Slice, bad: BadLeaf, path: tuple[PathStep, ...], loss: str | None) -> Op:
    """A tensor that was bad before the step: the line is that which first used it."""
    phase: Phase = "data" if bad.tensor.role in ("batch", "target") else "forward"
    first = path[0] if path else None
    source = first.source if first is not None else SourceLine(None, None, None, None)
    # What a loss could not use is best known by the loss's name.
    name = loss if loss is not None and bad.tensor.role == "target" else "data" if phase == "data" else bad.tensor.role
    return Op(name, "leaf", phase, source, first.module if first else None, None, (bad.tensor,), bad.tensor)


def _path(found: Slice, graph: Graph) -> tuple[PathStep, ...]:
    records = [r for r in found.path if r is found.path[0] or r.name not in _MOVES]
    kept: list[PathStep] = []
    for record in records:
        node = graph.nodes[record.index]
        step = PathStep(op_name(node, graph), record.phase, line_of(node), record.module, record.kind)
        if not kept or (step.op, step.source, step.phase) != (kept[-1].op, kept[-1].source, kept[-1].phase):
            kept.append(step)
    if len(kept) > _MAX_PATH:
        kept = [*kept[: _MAX_PATH // 2], *kept[-_MAX_PATH // 2 :]]
    return tuple(kept)


Found = tuple[tuple[Sample, ...], str | None]


def explained(
    run: Run,
    step: Step,
    is_finite: bool,
    samples: Callable[[], Found],
    look: Callable[[Step], None],
    bench: Callable[[], Bench],
    deadline: float,
    progress: Progress,
) -> Incident:
    """Look for the sample and into the data, ask the catalogue, try remedies; where the replay is finite, ask only."""
    if not is_finite:
        progress.stage("looking for the sample")
        step.samples, note = samples()
        step.notes += [note] if note else []
        look(step)
    incident, evidence = concluded(run, step)
    if run.options.prove and not is_finite:
        incident = prove(incident, evidence, bench(), deadline, progress)
    return incident


def concluded(run: Run, step: Step) -> tuple[Incident, Evidence]:
    evidence, _ = evidence_of(step)
    policy = run.options.policy
    return incident_of(evidence, list(step.notes), policy, action_of(policy, step.symptom.stage)), evidence


def unexplained(run: Run, symptom: Symptom, framework: str, why: str | Exception) -> Incident:
    """Return the incident of a step that could not be run again, or that whynan failed at."""
    if isinstance(why, Exception):
        why = f"whynan failed: {type(why).__name__}: {why}"
    line = source_line(calling_frame())
    return concluded(run, Step(symptom, ReplayResult(False, "none", why), framework, line=line))[0]


def replayed(is_finite: bool, error: BaseException | None, otherwise: str) -> ReplayResult:
    """Return what came of running a step again; `otherwise` says why, where it is finite now."""
    if error is not None:
        why = f"the step ended with {type(error).__name__}: {str(error)[:200]}"
        return ReplayResult(not is_finite, "none", why)
    return ReplayResult(not is_finite, "closure", otherwise if is_finite else None)
