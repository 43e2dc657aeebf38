"""Measure the evidence that causes are matched on."""

import linecache
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.common.arrays import parts_of
from whynan.adapters.common.data.reread import line_in, of_users
from whynan.adapters.common.positions import short_path, source_line
from whynan.adapters.keras import fit_data
from whynan.adapters.torch import handmade, sources
from whynan.adapters.torch.data import loader
from whynan.adapters.torch.data.facts import describe, role_by_name
from whynan.adapters.torch.data.lineage import held
from whynan.adapters.torch.data.refetch import LineWatch, find_data_origin
from whynan.adapters.torch.opfacts import forward_name, summarize
from whynan.adapters.torch.run_facts import filling_line, history_of, optimizer_of, precision_of, unwritten_line
from whynan.adapters.torch.samples import SampleSearch
from whynan.diagnosis.rewrite import assigned_above, named_numbers
from whynan.launch.host import is_user_file, tell
from whynan.records import (
    BadLeaf,
    BatchFacts,
    Evidence,
    Op,
    PathStep,
    Phase,
    ReplayResult,
    Sample,
    SourceLine,
    TensorSummary,
)
from whynan.trace import Leaf, OpRecord

if TYPE_CHECKING:
    from whynan.adapters.torch.attempt import Outcome
    from whynan.adapters.torch.plan import Plan

_SQUASHES = {
    "sigmoid",
    "_softmax",
    "softmax",
    "_log_softmax",
    "hardsigmoid",
    "clamp",
    "div",
    "softplus",
    "logsigmoid",
    "log_sigmoid_forward",
}
_DATA_BUDGET_S = 5.0


def gather(
    plan: "Plan",
    traced: "Outcome",
    search: SampleSearch,
    replay: ReplayResult,
    origin: Op | None,
    leaf: Leaf | None,
    path: tuple[PathStep, ...],
) -> Evidence:
    record = traced.slice.origin if traced.slice is not None else None
    bad_leaf = _bad_leaf(plan, traced, leaf) if leaf is not None else None
    samples = search.samples
    extra: dict[str, Any] = {}
    notes: list[str] = []
    # Missing values that the loss leaves out are meant: what counts is the line that computes with them.
    is_meant = plan.pending.what == "gradient" and traced.terms and not any(t.first_nonfinite for t in traced.terms)
    data = _data_origin(plan, search, bad_leaf, notes) if not is_meant else None
    if data is not None:
        origin = data
    elif origin is None and bad_leaf is not None:
        origin = _leaf_origin(plan, traced, bad_leaf, notes)
    elif origin is not None and record is not None:
        origin = _with_roles(origin, record, plan)
    elif origin is None and plan.pending.what == "input" and plan.pending.line is not None:
        # A library's guard has refused the batch: nothing was computed, the line is that of the call.
        origin = Op("data", "guard", "data", _line(*plan.pending.line))
    extra["notes"] = notes
    extra["terms_before"] = plan.host.watch.trail.terms_before(plan.pending.step)
    special = _special(plan, traced, record)
    extra.update(special.pop("extra", {}))
    batch = batch_of(plan, search.batch.names)
    if not batch.tensors:
        batch = replace(batch, tensors=_large_rows(plan, traced))
    return Evidence(
        symptom=plan.pending.symptom(),
        replay=replay,
        framework=plan.host.words,
        origin=origin,
        path=path,
        bad_leaf=bad_leaf,
        samples=tuple(_with_box(sample, batch) for sample in samples),
        loss_terms=traced.terms or (),
        history=history_of(plan),
        optimizer=optimizer_of(plan),
        precision=precision_of(plan, traced),
        batch=batch,
        error=_error_text(plan),
        assigned=_assigned(traced),
        extra=extra,
        **special,
    )


def _assigned(traced: "Outcome") -> dict[str, str]:
    record = traced.slice.origin if traced.slice is not None else None
    if record is None or not record.stack:
        return {}
    frame = record.stack[0]
    return assigned_above(linecache.getlines(frame.file), frame.line)


def _with_box(sample: Sample, batch: BatchFacts) -> Sample:
    """Say which box of a guilty sample is the faulty one."""
    words = next((text for position, text in batch.box_words if position == sample.position), None)
    return replace(sample, why=f"{sample.why}; {words}") if words else sample


def gather_without_replay(plan: "Plan", replay: ReplayResult) -> Evidence:
    """Return what watching alone tells: the symptom, where the program stood, the history."""
    origin = None
    if plan.pending.what == "parameter" and plan.pending.line is not None:
        file, line = plan.pending.line
        origin = Op("step", "optimizer.step", "optimizer", _line(file, line))
    return Evidence(
        symptom=plan.pending.symptom(),
        replay=replay,
        framework=plan.host.words,
        origin=origin,
        history=history_of(plan),
        optimizer=optimizer_of(plan),
        precision=precision_of(plan, None),
        error=_error_text(plan),
    )


def _line(file: str, line: int | None) -> SourceLine:
    return SourceLine(short_path(file), line, None, linecache.getline(file, line or 0).strip() or None)


def _error_text(plan: "Plan") -> str | None:
    error = plan.pending.error
    return f"{type(error).__name__}: {error}"[:2000] if error is not None else None


# Leaves and data ---------------------------------------------------------------------------------------------------


def _bad_leaf(plan: "Plan", traced: "Outcome", leaf: Leaf) -> BadLeaf:
    role, name = sources.role_of(leaf, plan, traced)
    since = None
    detail = None
    if role in ("parameter", "buffer"):
        since, detail = _when_poisoned(plan)
    if role in ("parameter", "buffer") and since == -1 and name is not None and unwritten_line(name) is not None:
        role, detail = "uninitialized", "its memory was allocated and never written"
    return BadLeaf(replace(leaf.summary, role=role, name=name), since, detail)


def _when_poisoned(plan: "Plan") -> tuple[int | None, str]:
    """Return the step that left a parameter or statistic non-finite (-1: none had been made), and how that is known."""
    watch = plan.host.watch
    if watch.n_steps == 0 and not plan.host.known.optimizers and plan.pending.step > 0:
        return None, f"it was so before step {plan.pending.step}; updates by hand are not followed one by one"
    if watch.n_steps == 0:
        return -1, "it was so before the first step"
    clean = watch.last_clean_step
    if clean is None:
        return None, f"it was so before step {plan.pending.step}; since when is not known"
    if clean == watch.n_steps - 1:
        return (
            clean,
            f"the optimizer's step {clean} left all parameters finite: it was written after that, by other code",
        )
    return clean + 1, f"finite after step {clean}, non-finite before step {plan.pending.step}"


def _with_roles(origin: Op, record: OpRecord, plan: "Plan") -> Op:
    """Say of the origin's inputs which are parameters and which are data: what no parameter has gone into."""
    keys, tainted = record.facts.get("input_keys", []), record.facts.get("input_tainted", [])
    if origin.phase != "forward" or len(keys) != len(origin.inputs):
        return origin
    names = {sources.storage_key(p): name for p, name in _named_parameters(plan)}
    # Weights may be where we do not know them (updates by hand): what a layer has made is no data either.
    is_made = bool(sources.LAYERS & set(record.facts.get("made_by", [])))
    inputs = []
    for summary, key, is_tainted in zip(origin.inputs, keys, tainted):
        if key in names:
            summary = replace(summary, role="parameter", name=names[key])
        elif not is_tainted and not is_made and "float" in summary.dtype:
            summary = replace(summary, role="batch")
        inputs.append(summary)
    return replace(origin, inputs=tuple(inputs))


def _named_parameters(plan: "Plan") -> list[tuple[Any, str]]:
    names = plan.host.known.parameter_names()
    return [(p, names.get(id(p), "parameter")) for p in plan.host.known.parameters()]


def _leaf_origin(plan: "Plan", traced: "Outcome", bad: BadLeaf, notes: list[str]) -> Op:
    """A tensor that was bad before the step: the line is that which first used it."""
    path = traced.slice.path if traced.slice is not None else ()
    frame = path[0].stack[0] if path and path[0].stack else None
    phase: Phase = "data" if bad.tensor.role in ("batch", "target") else "forward"
    name = bad.tensor.name
    line = unwritten_line(name) if bad.tensor.role == "uninitialized" and name is not None else None
    if line is not None:
        return Op("empty", "torch.empty", "forward", line, None, None, (bad.tensor,), bad.tensor)
    filled = filling_line(name.partition("[")[0], False) if phase == "data" and name is not None else None
    if filled is not None:
        notes.append(_LIKELY.format(name=name, line=filled[0].line))
        return Op(filled[1], "data", "data", filled[0], None, None, (bad.tensor,), bad.tensor)
    module = path[0].module if path else None
    if bad.tensor.role == "computed" and plan.host.outer_of(plan.target) is None:
        notes.append(f"these values were there before the loop began{_holder(plan, traced)}: look at what made them")
    return Op(
        "data" if phase == "data" else bad.tensor.role,
        "leaf",
        phase,
        source_line(frame),
        module,
        None,
        (bad.tensor,),
        bad.tensor,
    )


def _holder(plan: "Plan", traced: "Outcome") -> str:
    """Say which attribute of a module holds the values that the step began from."""
    leaf = traced.slice.leaf if traced.slice is not None else None
    for root in plan.host.known.modules.values() if leaf is not None else ():
        for path, module in root.named_modules():
            for name, value in vars(module).items():
                for part in value if isinstance(value, (list, tuple)) else (value,):
                    if isinstance(part, torch.Tensor) and leaf is not None and sources.storage_key(part) == leaf.key:
                        return f", in {path}.{name}".replace(" .", " ")
    return ""


_LIKELY = "{name} held the value before watching could see it made; line {line} is the only one that can have made it"


def _data_origin(plan: "Plan", search: SampleSearch, bad: BadLeaf | None, notes: list[str]) -> Op | None:
    """Where the data set's own code made the value: fetch the sample again and look at each of its lines."""
    if bad is None or bad.tensor.role not in ("batch", "target", "computed"):
        return None
    origin = sources.batch_origin(plan, search.size)
    if origin is None:
        return _line_without_loader(plan, search) if search.position is not None else None
    try:
        found = find_data_origin(origin, search.position, is_user_file, _DATA_BUDGET_S)
    except Exception as error:
        tell("fetching the sample again failed", error)
        return None
    if found is None or found.line is None:
        return None  # a data set of the library's: the line is that which used the value
    source = SourceLine(short_path(found.file) if found.file else None, found.line, found.function, found.code)
    attribute = re.search(r"self\.(\w+)\s*\[", found.code or "") if found.stored else None
    if attribute is not None and found.file:
        filled = filling_line(attribute.group(1), True, (found.file, found.line or 0))
        if filled is not None:
            notes.append(_LIKELY.format(name=f"self.{attribute.group(1)}", line=filled[0].line))
            return Op(filled[1], "data", "data", filled[0], None, None, tuple(found.inputs), found.output)
    return Op(found.op, found.event or "data", "data", source, None, None, tuple(found.inputs), found.output)


def _line_without_loader(plan: "Plan", search: SampleSearch) -> Op | None:
    """The same for a batch that a generator or a data set of the script's gave, or Keras' `fit` read from one."""

    parts = parts_of(list(sources.batch_items(plan, search.batch.names).items()))
    with loader.preserved():
        line = line_in(
            lambda: of_users(fit_data()), parts, search.position, time.monotonic() + _DATA_BUDGET_S, LineWatch
        )
    return line.op if line is not None else None


# Facts about the origin ----------------------------------------------------------------------------------------------


def _special(plan: "Plan", traced: "Outcome", record: OpRecord | None) -> dict[str, Any]:
    result: dict[str, Any] = {"extra": {}}
    tracer = traced.tracer
    if tracer is None or traced.slice is None:
        return result
    calls = tracer.trace.loss_calls
    if calls:
        call = _loss_on_path(calls, traced)
        result["loss_function"], result["loss_inputs"] = call.name, call.inputs
        result["extra"]["loss_facts"] = call.facts
    if record is None:
        return result
    known = record.facts
    made_by = known.get("made_by", [])
    result["intended_infinity"] = traced.slice.intended
    result["masked_rows"] = int(known.get("masked_rows", 0))
    result["reduces_nothing"] = bool(known.get("reduces_nothing", False))
    result["in_custom_function"] = record.custom
    result["custom_input_nonfinite"] = bool(record.edges)
    result["through_where"] = _through_where(tracer, record, traced.slice.path)
    result["zero_variance"] = _zero_variance(record, made_by)
    result["logits_as_probabilities"] = _takes_logits(record, made_by)
    result["extra"].update({key: value for key, value in known.items() if key != "made_by"})
    result["extra"]["made_by"] = made_by
    if record.stack:
        lines = linecache.getlines(record.stack[0].file)
        result["extra"]["named_numbers"] = named_numbers(lines, record.stack[0].line)
    return result


def _loss_on_path(calls: list[Any], traced: "Outcome") -> Any:
    path = {record.index for record in traced.slice.path} if traced.slice is not None else set()
    return next((call for call in calls if call.index in path), calls[-1])


def _through_where(tracer: Any, record: OpRecord, path: Sequence[OpRecord]) -> bool:
    """Whether a `where` in the forward pass drops the values that the origin's operation made."""
    forward = record.index
    hidden = record.kind == "nan" and 0.0 in record.facts.get("inputs_at_element", [])[:1]
    line = linecache.getline(record.stack[0].file, record.stack[0].line) if record.stack else ""
    if record.phase == "backward":
        if hidden and re.search(r"\bwhere\(", line):
            return True  # under vmap and grad no lineage leads from one to the other
        known = tracer.trace.forward.get(record.sequence)
        if known is None:
            return False
        forward = known.index
    # Those of the backward pass are no choice of the script's: the derivative of clamp is a `where`.
    end = tracer.first_backward if tracer.first_backward is not None else len(tracer.lineage)
    wheres = [i for i in range(forward + 1, end) if tracer.lineage[i][0] in ("where", "masked_fill")]
    if not any(tracer.is_ancestor(forward, index) for index in wheres[:200]):
        return False
    if record.phase == "backward":
        # A power's own slope comes first, the gradient 0 that it is multiplied by after it.
        own = any(r.kind == "nan" and r.sequence == record.sequence and r.phase == "backward" for r in path)
        powers = own and (record.node or "").startswith("PowBackward")
        return hidden or (powers and any(forward in tracer.lineage[i][1] for i in wheres))
    # A forward infinity that `where` drops comes back as 0 * inf in the backward pass.
    return any(index in {i for i, _, _ in tracer.absorbed} for index in wheres)


def _zero_variance(record: OpRecord, made_by: list[str]) -> bool:
    name = forward_name(record.node) if record.node else record.name
    if "norm" in name and any(word in name for word in ("batch", "layer", "group", "instance")):
        return True
    if name not in ("div", "true_divide", "sqrt", "rsqrt", "std", "var", "std_mean", "var_mean", "reciprocal"):
        return False
    near = made_by[:6] if record.phase == "forward" else [name, *made_by[:6]]
    return bool({"std", "var", "std_mean", "var_mean"} & set(near)) and not record.facts.get("reduces_nothing")


def _takes_logits(record: OpRecord, made_by: list[str]) -> bool:
    """Whether a logarithm (of a loss) got what a layer put out, with no squashing function between."""
    if record.name not in ("log", "log2", "log10", "log1p", "binary_cross_entropy", "xlogy"):
        return False
    for name in made_by:
        if name in _SQUASHES:
            return False
        if name in sources.LAYERS:
            return True
    return False


def _large_rows(plan: "Plan", traced: "Outcome") -> tuple[TensorSummary, ...]:
    """Return the large numbers that the step took from the script's own tables: no variable held them as a batch."""
    try:
        gathered = next(handmade.gathered_batches(plan, traced), None)
        names = {id(value): name for name, value in held(handmade.namespaces(plan, traced))}
        found = []
        for table in gathered.tables if gathered is not None else ():
            name = names.get(id(table), "table")
            part = torch.as_tensor(table[list(gathered.rows)]) if gathered is not None else table
            made = summarize(part, role_by_name(name) or "batch", name)
            if part.is_floating_point() and made.n_nonfinite == 0 and made.abs_max > 1e3:
                found.append(made)
        return tuple(found)
    except Exception as error:
        tell("looking at the rows of a batch failed", error)
        return ()


def batch_of(plan: "Plan", original: dict[str, Any] | None = None) -> BatchFacts:
    try:
        return describe(sources.batch_items(plan, original))
    except Exception as error:
        tell("looking at the batch failed", error)
        return BatchFacts()
