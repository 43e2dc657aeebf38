"""From a traced attempt to an incident: the origin in a report's words, the loss's terms, evidence, diagnosis."""

import ast
import contextlib
import linecache
import math
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.common.data.lines import alone
from whynan.adapters.common.positions import source_line
from whynan.adapters.torch import evidence as facts
from whynan.adapters.torch.data import loader
from whynan.adapters.torch.elements import nonfinite_elements
from whynan.adapters.torch.frames import live_user_frame, sounds_like_loss
from whynan.adapters.torch.opfacts import plain_name
from whynan.adapters.torch.samples import SampleSearch
from whynan.adapters.torch.sites import Event
from whynan.adapters.torch.snapshot import KnownState
from whynan.adapters.torch.sources import storage_key
from whynan.adapters.torch.storages import values_of
from whynan.adapters.torch.trace import Tracer
from whynan.diagnosis.catalogue import incident_of
from whynan.launch.host import tell
from whynan.records import Incident, LossTerm, Op, PathStep, ReplayResult, TensorSummary
from whynan.snapshot import _tree, find_loop, frame_values
from whynan.trace import Frame, Leaf, OpRecord, ScalarOp, Slice, find_origin

if TYPE_CHECKING:
    from whynan.adapters.torch.attempt import Outcome, Pending
    from whynan.adapters.torch.plan import Plan

_MAX_PATH = 60
_MOVES = {"copy_", "clone", "t", "view", "expand", "_to_copy", "transpose", "permute", "_unsafe_view", "slice_backward"}
"""Ops that only move values: a reader of a path gains nothing by them."""
_JOINS = {
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "neg",
    "sum",
    "mean",
    "stack",
    "cat",
    "add_",
    "mul_",
    "div_",
    "view",
    "squeeze",
}
_MOST = 24


def slice_of(tracer: Tracer, event: Event, known: KnownState | None = None) -> Slice | None:
    edges = []
    for tensor in event.tensors[:12]:
        tensor = None if tensor is None else values_of(tensor)
        if tensor is None or tensor.layout != torch.strided or tensor.numel() == 0:
            continue
        if bool(torch.isfinite(tensor.detach()).all()):
            continue
        for element in nonfinite_elements(tensor)[0]:
            edge = tracer.writer_at(tensor, element)
            if edge is not None:
                edges.append(edge)
    buffers = {storage_key(buffer) for buffer in known.buffers()} if known is not None else set()
    return find_origin(tracer.trace, edges, _is_mask, lambda leaf: leaf.key in buffers)


def _is_mask(leaf: Leaf) -> bool:
    """An infinity that came with the step and not from it: all of one sign and no NaN beside it is a mask."""
    summary = leaf.summary
    return summary.n_nan == 0 and summary.n_neginf > 0 and summary.n_posinf == 0


def live_namespaces(frame: FrameType) -> list[dict[str, Any]]:
    """Return what the user's live frames' names stand for, innermost first, with the globals last."""
    import sys

    spaces: list[dict[str, Any]] = []
    current = live_user_frame(sys._getframe(1))
    while current is not None and len(spaces) < 8:
        spaces.append(frame_values(current) or {})
        current = live_user_frame(current.f_back)
    return [*spaces, dict(frame.f_globals)]


def terms_of(tracer: Tracer, event: Event, outcome: "Outcome") -> tuple[LossTerm, ...]:
    try:
        return find_terms(tracer, event, outcome.slice, outcome.frames)
    except Exception as error:
        tell("naming the loss terms failed", error)
        return ()


def is_loss(tracer: Tracer, event: Event, pending: "Pending") -> bool:
    """Whether a number that the script read depends on the parameters and is made or called like a loss."""
    if not any(tracer.depends_on_parameters(tensor) for tensor in event.tensors):
        return False
    text = pending.name
    if pending.line is not None:
        text += linecache.getline(pending.line[0], pending.line[1] or 0)
    return sounds_like_loss(text) or bool(tracer.trace.loss_calls)


def incident(plan: "Plan", traced: "Outcome", search: SampleSearch) -> Incident:
    replay = plan.replay_result(traced)
    with contextlib.suppress(Exception):  # a line that cannot run twice tells nothing more
        _remade(plan, traced)
    origin, leaf = None, None
    if traced.slice is not None:
        if traced.slice.origin is not None:
            origin = origin_op(traced.slice.origin)
        elif traced.slice.leaf is not None:
            leaf = traced.slice.leaf
    records = traced.slice.path if traced.slice is not None else ()
    path = tuple(_step(record) for record in records if record is records[0] or record.name not in _MOVES)
    evidence = facts.gather(plan, traced, search, replay, origin, leaf, _shortened(path))
    plan.evidence = evidence
    return _diagnosed(plan, evidence, search.note)


def _remade(plan: "Plan", traced: "Outcome") -> None:
    """Trace the line before a validation loop that made the copy of the model which it evaluates: averaged weights."""
    frame, site = plan.target.frame, plan.target.site
    leaf = traced.slice.leaf if traced.slice is not None else None
    loop = find_loop(site)
    if leaf is None or loop is None or plan.pending.stage != "validation" or plan.host.options.policy != "stop":
        return
    values = frame_values(frame) or {}
    names = {name for name, value in values.items() if isinstance(value, torch.nn.Module) and _holds(value, leaf)}
    if any(storage_key(p) == leaf.key for group in plan.host.known.groups() for p in group["params"]):
        return  # it is what was trained
    made_by = [
        node.value
        for node in ast.walk(_tree(site.filename) or loop)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in names
        and frame.f_code.co_firstlineno < node.lineno < loop.lineno
        and not names & {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
    ]
    if len(made_by) != 1:
        return
    tracer = Tracer()
    with alone(loader.preserved()), torch.no_grad(), tracer:
        made = eval(compile(ast.Expression(made_by[0]), site.filename, "eval"), frame.f_globals, values)
    if isinstance(made, torch.nn.Module):
        event = Event("parameter", "made again", [*made.parameters(), *made.buffers()], "", "nan")
        found = slice_of(tracer, event)
        if found is not None and found.origin is not None:
            traced.slice, traced.tracer = found, tracer


def _holds(module: Any, leaf: Leaf) -> bool:
    return any(storage_key(tensor) == leaf.key for tensor in [*module.parameters(), *module.buffers()])


def without_replay(plan: "Plan", why: str) -> Incident:
    """What can be said from watching alone."""
    evidence = facts.gather_without_replay(plan, ReplayResult(False, "none", why))
    return _diagnosed(plan, evidence, None)


def _diagnosed(plan: "Plan", evidence: Any, note: str | None) -> Incident:
    notes: list[str] = [note] if note else []
    if plan.host.ranks.is_among_others and not plan.host.ranks.agreed:
        notes.insert(0, plan.host.ranks.own_words(evidence.replay.reproduced))
    notes += evidence.extra.get("notes", [])
    return incident_of(evidence, notes, plan.host.options.policy, _action(plan))


def _action(plan: "Plan") -> str:
    if plan.pending.was_skipped:
        return "the script skipped this step itself"
    policy = plan.host.options.policy
    if policy == "observe":
        return "nothing was changed; the script went on"
    if policy == "recover":
        return "nothing was changed; the script goes on"
    if plan._target is None and plan.pending.moment is not None:
        return "the run was over when this was known"
    is_late = plan._target is not None and plan._target.own is not None
    if plan.pending.when == "after optimizer.step()" or is_late:
        return "stopped; the parameters are those from before the step" if plan._target else "stopped"
    return "stopped before the optimizer could use it"


def origin_op(record: OpRecord) -> Op:
    frame = record.stack[0] if record.stack else None
    return Op(
        op=plain_name(record),
        framework_op=f"{record.node} ({record.framework_op})" if record.node else record.framework_op,
        phase=record.phase,
        source=source_line(frame),
        module=record.module,
        module_type=record.module_type,
        inputs=_inputs(record),
        output=record.output,
        elements=record.elements,
        args=_args(record),
    )


def _args(record: OpRecord) -> dict[str, Any]:
    """Return the arguments by name; a derivative's own power is that of the exponent less one."""
    exponent = record.args.get("exponent")
    if isinstance(exponent, float) and _is_slope_of_power(record):
        return {**record.args, "exponent": exponent + 1}
    return record.args


def _is_slope_of_power(record: OpRecord) -> bool:
    """Whether this is the power in the derivative of a power, which the gradient is multiplied by only after it."""
    return record.phase == "backward" and record.name == "pow" and (record.node or "").startswith("PowBackward")


def _inputs(record: OpRecord) -> tuple[TensorSummary, ...]:
    """Return the inputs; of a derivative's formula the first is the gradient that came in."""
    if record.phase != "backward" or record.custom is not None or len(record.inputs) < 2 or _is_slope_of_power(record):
        return record.inputs
    return (replace(record.inputs[0], role="gradient"), *record.inputs[1:])


def _step(record: OpRecord) -> PathStep:
    frame = record.stack[0] if record.stack else None
    return PathStep(plain_name(record), record.phase, source_line(frame), record.module, record.kind)


def _shortened(path: tuple[PathStep, ...]) -> tuple[PathStep, ...]:
    """Leave out the middle of a long path, and steps that repeat the one before."""
    kept: list[PathStep] = []
    for step in path:
        if not kept or (step.op, step.source, step.phase) != (kept[-1].op, kept[-1].source, kept[-1].phase):
            kept.append(step)
    if len(kept) > _MAX_PATH:
        kept = [*kept[: _MAX_PATH // 2], *kept[-_MAX_PATH // 2 :]]
    return tuple(kept)


def find_terms(
    tracer: Tracer, event: Event, sliced: Slice | None, spaces: list[dict[str, Any]]
) -> tuple[LossTerm, ...]:
    """Return the loss's summands, outermost first; the loss itself where it is no sum."""
    root = _root(tracer, event)
    if root is None:
        return ()
    names = dict(_names_of_scalars(spaces))
    leaves = list(_summands(root, tracer, names))
    plain = event.name if event.what in ("loss", "input") else "loss"
    whole = names.get(root.key) or _assigned_name(root, root) or plain
    terms: dict[str, tuple[float, ScalarOp]] = {}
    for scalar in leaves:
        name = names.get(scalar.key) or _assigned_name(scalar, root)
        # A scalar made while the whole was being made stands on the whole's line: that name is not its own.
        if name is not None and name not in terms and (name != whole or scalar is root):
            terms[_telling(name, scalar, root)] = (scalar.value, scalar)
    if not terms or leaves == [root]:
        terms = {whole: (root.value, root)}
    first = _first_bad(terms, tracer, sliced)
    return tuple(LossTerm(name, value, name == first) for name, (value, _) in list(terms.items())[:_MOST])


def _root(tracer: Tracer, event: Event) -> ScalarOp | None:
    """Return the scalar that the backward pass began at: the loss of the event, else the last loss of the trace."""
    scalars = tracer.trace.scalars
    for tensor in event.tensors if event.what in ("loss", "input") else ():  # a bias of one number is no loss
        if isinstance(tensor, torch.Tensor) and tensor.numel() == 1:
            index = tracer.storages.writer(tensor)
            if index in scalars:
                return scalars[index]
    return scalars.get(tracer.last_root) if tracer.last_root is not None else None


def _names_of_scalars(spaces: list[dict[str, Any]]) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield (address, name) of one-element tensors; names of outer frames first, so that inner ones win."""
    for space in reversed(spaces):
        for name, value in space.items():
            if isinstance(value, torch.Tensor):
                if value.numel() == 1 and value.is_floating_point():
                    yield (storage_key(value) or 0, value.storage_offset()), name
            elif isinstance(value, dict) and len(value) <= 64:
                for key, item in value.items():
                    if isinstance(item, torch.Tensor) and item.numel() == 1 and item.is_floating_point():
                        yield (storage_key(item) or 0, item.storage_offset()), str(key)


def _summands(
    scalar: ScalarOp, tracer: Tracer, names: dict[tuple[int, int], str], depth: int = 0
) -> Iterator[ScalarOp]:
    operands = [tracer.trace.scalars[i] for i in scalar.operands if i in tracer.trace.scalars]
    is_root = depth == 0
    if (
        scalar.name in _JOINS
        and operands
        and depth < 24
        and (is_root or scalar.key not in names or scalar.name != "mean")
    ):
        named_here = not is_root and scalar.key in names
        if not named_here:
            for operand in operands:
                yield from _summands(operand, tracer, names, depth + 1)
            return
    yield scalar


def _assigned_name(scalar: ScalarOp, root: ScalarOp) -> str | None:
    """Return the variable that the scalar was assigned to, in the function in which the sum was made."""
    wanted = {(frame.file, frame.function) for frame in root.stack}
    for frame in scalar.stack:
        if (frame.file, frame.function) in wanted:
            name = _target_of(frame)
            if name is not None:
                return name
    return None


def _telling(name: str, scalar: ScalarOp, root: ScalarOp) -> str:
    """Add to a name of one or two letters the user's function that made the scalar: "d (dice_loss)"."""
    wanted = {(frame.file, frame.function) for frame in root.stack}
    outer = next((i for i, frame in enumerate(scalar.stack) if (frame.file, frame.function) in wanted), 0)
    return f"{name} ({scalar.stack[outer - 1].function})" if len(name) <= 2 and outer > 0 else name


def _target_of(frame: Frame) -> str | None:
    text = linecache.getline(frame.file, frame.line).strip()
    try:
        statement = ast.parse(text.removesuffix("\\")).body[0]
    except (SyntaxError, IndexError):
        return text.split("=")[0].strip() if "=" in text and text.split("=")[0].strip().isidentifier() else None
    target = None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        target = statement.target
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        return str(target.slice.value)
    return target.attr if isinstance(target, ast.Attribute) else None


def _first_bad(terms: dict[str, tuple[float, ScalarOp]], tracer: Tracer, sliced: Slice | None) -> str | None:
    bad = [(scalar.index, name) for name, (value, scalar) in terms.items() if not math.isfinite(value)]
    if bad:
        return min(bad)[1]
    origin = sliced.origin if sliced is not None else None
    forward = _forward_index(origin, tracer) if origin is not None else None
    if forward is None:
        return None
    reached = [(scalar.index, name) for name, (_, scalar) in terms.items() if tracer.is_ancestor(forward, scalar.index)]
    return reached[0][1] if len(reached) == 1 else None


def _forward_index(origin: OpRecord, tracer: Tracer) -> int | None:
    if origin.phase == "forward":
        return origin.index
    forward = tracer.trace.forward.get(origin.sequence) if origin.sequence is not None else None
    return forward.index if forward is not None else None
