"""What is known of the run as a whole: history, optimizer, precision, weights, lines that ran before watching.

Read from the source, not measured: what is found is the only line of the user's code that can have done it, and a
report says that it is likely.
"""

import ast
import linecache
import math
from collections.abc import Iterable, Iterator
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.common.positions import short_path
from whynan.adapters.torch.elements import dense
from whynan.adapters.torch.frames import live_user_frame
from whynan.adapters.torch.snapshot import KnownState
from whynan.adapters.torch.storages import values_of
from whynan.launch.host import user_codes
from whynan.records import History, OptimizerFacts, Precision, SourceLine

if TYPE_CHECKING:
    from whynan.adapters.torch.attempt import Outcome
    from whynan.adapters.torch.plan import Plan


_RISKY_CALLS = {
    "log": "log", "log2": "log2", "log10": "log10", "log1p": "log1p", "sqrt": "sqrt", "exp": "exp", "power": "pow",
    "divide": "divide", "true_divide": "divide", "reciprocal": "reciprocal", "std": "std", "arccos": "acos",
    "arcsin": "asin", "norm": "norm", "pow": "pow", "rsqrt": "rsqrt", "div": "div", "genfromtxt": "data",
}  # fmt: skip
_UNWRITTEN = {"empty", "empty_like", "new_empty", "Tensor", "FloatTensor", "empty_strided"}


@cache
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None


def filling_line(name: str, is_attribute: bool, before: tuple[str, int] | None = None) -> tuple[SourceLine, str] | None:
    """Return the one line of the user's code that fills `name` by an operation that can leave the numbers, and that op.

    None where there is none, or more than one. A literal NaN or infinity counts as op "data".
    """
    found = []
    for file, function, statement in _statements():
        if not _fills(statement, name, is_attribute):
            continue
        if before is not None and (file, statement.lineno) == before:
            continue
        op = _risky_op(statement)
        if op is not None:
            found.append((_line(file, statement, function), op))
    return found[0] if len(found) == 1 else None


def calling_line(name: str) -> SourceLine | None:
    """Return the one line of the user's code that calls `name`; None where none or several do."""
    found = []
    for file, function, statement in _statements():
        calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and _called(node) == name]
        found += [(file, function, node.lineno) for node in calls]
    if len(set(found)) != 1:
        return None
    file, function, line = found[0]
    return SourceLine(short_path(file), line, function, linecache.getline(file, line).strip() or None)


def unwritten_line(name: str) -> SourceLine | None:
    """Return the line that makes the parameter or buffer `name` of memory which nobody has written."""
    attribute = name.rpartition(".")[2]
    for file, function, statement in _statements():
        if _fills(statement, attribute, True) or _registers(statement, attribute):
            calls = {_called(node) for node in ast.walk(statement) if isinstance(node, ast.Call)}
            if calls & _UNWRITTEN:
                return _line(file, statement, function)
    return None


def _statements() -> Iterator[tuple[str, str, ast.stmt]]:
    for file in list(user_codes):
        tree = _tree(file)
        if tree is not None:
            yield from _in_body(file, "<module>", tree.body)


def _in_body(file: str, function: str, body: Iterable[ast.stmt]) -> Iterator[tuple[str, str, ast.stmt]]:
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _in_body(file, statement.name, statement.body)
            continue
        blocks = [getattr(statement, field, None) for field in ("body", "orelse", "finalbody")]
        if not any(blocks):
            yield file, function, statement
        for block in blocks:
            yield from _in_body(file, function, block or [])


def _fills(statement: ast.stmt, name: str, is_attribute: bool) -> bool:
    """Whether a statement assigns to `name`, to an element of it, or appends to it."""
    if isinstance(statement, ast.Assign):
        return any(_is_named(part, name, is_attribute) for target in statement.targets for part in _parts(target))
    if isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        return _is_named(statement.target, name, is_attribute)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        if isinstance(function, ast.Attribute) and function.attr in ("append", "extend", "copy_", "fill"):
            return _is_named(function.value, name, is_attribute)
    return False


def _parts(target: ast.expr) -> list[ast.expr]:
    return list(target.elts) if isinstance(target, (ast.Tuple, ast.List)) else [target]


def _is_named(node: ast.expr, name: str, is_attribute: bool) -> bool:
    while isinstance(node, ast.Subscript):
        node = node.value
    if is_attribute:
        return isinstance(node, ast.Attribute) and node.attr == name
    return isinstance(node, ast.Name) and node.id == name


def _registers(statement: ast.stmt, name: str) -> bool:
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and _called(node) in ("register_parameter", "register_buffer"):
            return any(isinstance(arg, ast.Constant) and arg.value == name for arg in node.args)
    return False


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _risky_op(statement: ast.stmt) -> str | None:
    value = statement.value if isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr)) else None
    for node in ast.walk(value) if value is not None else ():
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and not isinstance(node.right, ast.Constant):
            return "div"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and not _is_whole(node.right):
            return "pow"
        if isinstance(node, ast.Call) and _called(node) in _RISKY_CALLS:
            return _RISKY_CALLS[_called(node)]
        if isinstance(node, ast.Attribute) and node.attr in ("nan", "inf", "NaN", "Inf"):
            return "data"
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.lower().strip("-+") in ("nan", "inf")
        ):
            return "data"
    if isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Div):
        return "div"
    return None


def _is_whole(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value >= 0


def _line(file: str, statement: ast.stmt, function: str) -> SourceLine:
    code = linecache.getline(file, statement.lineno).strip()
    return SourceLine(short_path(file), statement.lineno, function, code or None)


_WRAPS = "__tensor_flatten__"
"""What quantized state has: its codes' zeros say nothing."""


def history_of(plan: "Plan") -> History:
    watch = plan.host.watch
    start = watch.weights.norm_start
    now = _finite_weight_norms(plan)
    loss = list(watch.history.loss.values())
    if watch.last_loss is not None and (not loss or loss[-1] != watch.last_loss):
        loss.append(watch.last_loss)
    norms = list(watch.history.grad_norm.values())
    if plan.pending.grad_norm is not None and plan.pending.what == "gradient":
        norms.append(plan.pending.grad_norm)
    return History(
        loss=tuple(loss[-4000:]),
        grad_norm=tuple(norms[-4000:]),
        lr=tuple(watch.history.lr.values()[-4000:]),
        weight_norm_start=start[0] if start else None,
        weight_norm_now=now[0],
        weight_abs_max_start=start[1] if start else now[1],
        weight_abs_max_now=now[1],
        largest_growth=tuple(watch.weights.growth()[:8]),
        largest_gain_start=tuple((watch.weights.gains_start or watch.weights.gains())[:8]),
    )


def _finite_weight_norms(plan: "Plan") -> tuple[float | None, float | None]:
    snapshot = plan._target.snapshot if plan._target is not None else None
    if snapshot is not None:
        with torch.no_grad():
            for copy in snapshot.optimizers.values():
                copy.restore()
    norm, largest = plan.host.watch.weights.weight_norms()
    return (norm if math.isfinite(norm) else None, largest if math.isfinite(largest) else None)


def optimizer_of(plan: Any) -> OptimizerFacts | None:
    """Return the facts of the optimizer whose gradients are bad, else of the last one; `plan` has the `host`."""
    if not plan.host.known.optimizers:
        return None
    optimizer = plan.host.known.optimizers[-1]
    for candidate in plan.host.known.optimizers:
        ids = {id(p) for group in candidate.param_groups for p in group["params"]}
        if any(
            p.grad is not None and not bool(torch.isfinite(values_of(p.grad)).all())
            for p in plan.host.known.parameters()
            if id(p) in ids
        ):
            optimizer = candidate
            break
    group = optimizer.param_groups[0] if optimizer.param_groups else {}
    betas = group.get("betas")
    return OptimizerFacts(
        name=type(optimizer).__name__,
        lr=_number(group.get("lr")),
        eps=_number(group.get("eps")),
        weight_decay=_number(group.get("weight_decay")),
        momentum=_number(group.get("momentum")),
        betas=(float(betas[0]), float(betas[1])) if isinstance(betas, (tuple, list)) and len(betas) == 2 else None,
        n_parameters=sum(p.numel() for g in optimizer.param_groups for p in g["params"]),
        state_zeros=_state_zeros(optimizer),
        source=calling_line(type(optimizer).__name__),
    )


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _state_zeros(optimizer: Any) -> dict[str, int]:
    zeros: dict[str, int] = {}
    for values in optimizer.state.values():
        for key, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, torch.Tensor) and value.numel() > 1 and not hasattr(values_of(value), _WRAPS):
                zeros[key] = zeros.get(key, 0) + int((values_of(value) == 0).sum())
    return zeros


def precision_of(plan: "Plan", traced: "Outcome | None") -> Precision:
    """Half precision at the origin beside parameters in float32 is autocast's doing (or a cast by hand)."""
    watch = plan.host.watch
    dtypes = [str(p.dtype).removeprefix("torch.") for p in plan.host.known.parameters()]
    parameters = dtypes[0] if dtypes else "float32"
    record = traced.slice.origin if traced is not None and traced.slice is not None else None
    half = [s.dtype for s in (record.inputs if record else ()) if s.dtype in ("float16", "bfloat16")]
    return Precision(
        autocast=half[0] if half and parameters == "float32" else None,
        parameters=parameters,
        scaler=watch.scaler.scale is not None,
        scale=watch.scaler.scale,
        n_skipped_in_a_row=watch.scaler.n_skipped,
    )


def value_of_epoch(frame: FrameType | None) -> int | None:
    """Return what a variable called epoch says, in the innermost of the user's frames that has one."""
    from whynan.snapshot import frame_values

    while frame is not None:
        frame = live_user_frame(frame)
        if frame is None:
            return None
        values = frame_values(frame) or {}
        for name in ("epoch", "ep", "epoch_idx", "current_epoch"):
            if isinstance(values.get(name), int):
                return int(values[name])
        frame = frame.f_back
    return None


class WeightScales:
    """Norms and gains of the parameters; `begin` keeps those of the first step."""

    def __init__(self, known: KnownState) -> None:
        self.known = known
        self.norm_start: tuple[float, float] | None = None
        self.norms_start: dict[int, float] = {}
        self.gains_start: list[tuple[str, float]] = []

    def begin(self) -> None:
        """Measure once, before the first update."""
        if self.norm_start is None:
            self.norm_start = self.weight_norms()
            self.norms_start = {id(p): float(p.detach().norm()) for p in self.known.parameters()}
            self.gains_start = self.gains()

    def gains(self) -> list[tuple[str, float]]:
        """Return (name, std * sqrt(fan_in)) of matrices and kernels, largest first; 1 keeps activations in scale."""
        names = self.known.parameter_names()
        tables = {id(m.weight) for root in self.known.modules.values() for m in root.modules() if _is_table(m)}
        found = []
        for parameter in self._readable():
            if parameter.dim() >= 2 and parameter.numel() > 1 and id(parameter) not in tables:
                fan_in = parameter.numel() // parameter.shape[0]
                gain = float(parameter.detach().float().std()) * math.sqrt(fan_in)
                found.append((names.get(id(parameter), "parameter"), gain))
        return sorted(found, key=lambda pair: -pair[1] if pair[1] == pair[1] else 0.0)

    def growth(self) -> list[tuple[str, float]]:
        """Return (name, norm now over norm at the start) of parameters, largest first."""
        names = self.known.parameter_names()
        found = []
        for parameter in self._readable():
            start = self.norms_start.get(id(parameter), 0.0)
            now = float(parameter.detach().norm())
            if start > 0 and math.isfinite(now):
                found.append((names.get(id(parameter), "parameter"), now / start))
        return sorted(found, key=lambda pair: -pair[1])

    def _readable(self) -> list[Any]:
        """Return the parameters that can be read without asking other processes."""
        parameters = self.known.parameters()
        return [] if self.known.is_sharded else parameters

    def weight_norms(self) -> tuple[float, float]:
        """Return the global L2 norm and the largest magnitude over all parameters."""
        tensors = [t.detach() for t in dense(self.known.parameters()) if t.numel()]
        if not tensors:
            return 0.0, 0.0
        norms = torch.stack([t.double().norm() for t in tensors])
        largest = max(float(t.abs().max()) for t in tensors)
        return float(norms.norm()), largest


def _is_table(module: Any) -> bool:
    return isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag))
