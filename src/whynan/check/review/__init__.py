"""The first step, read by somebody who has seen many: what remarks are made of, and all of them in turn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from whynan.check.context import Context
from whynan.check.graph import Node, Place
from whynan.check.suspects import Finding, Severity

_SEVERITY = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class LayerFacts:
    path: str
    kind: str
    rms: float
    zeros: float
    """The share of elements that are exactly 0."""
    saturated: float
    """Of a sigmoid or tanh: the share of elements at its ends."""


@dataclass
class OptimizerFacts:
    """An optimizer as it was before its first step."""

    kind: str
    place: Place | None
    rates: tuple[float, ...]
    eps: tuple[float, ...]
    decays: tuple[float, ...]
    momentum: float
    dtypes: tuple[str, ...]
    weight_norm: float
    gradient_norm: float
    n_parameters: int
    n_without_gradient: int = 0
    later_rates: list[float] = field(default_factory=list)


@dataclass
class StepFacts:
    """All that a check of the review may look at."""

    context: Context
    optimizers: tuple[OptimizerFacts, ...] = ()
    layers: tuple[LayerFacts, ...] = ()
    losses: tuple[float, ...] = ()
    is_scaled: bool = False
    clipped_before_unscale: Place | None = None
    n_clipped: int = 0
    rate_test: tuple[tuple[float, float], ...] = ()
    """(learning rate, loss after one step with it) on the recorded batch, the smallest first; shorter steps than the
    configured one only where that does harm."""


def relevant(context: Context, *ops: str) -> Iterator[Node]:
    """Yield the operations of these names that reach the loss."""
    found = context.graph.relevant()
    return (n for n in context.graph.nodes if n.op in ops and n.index in found and n.phase == "forward")


def finding(
    check: str, severity: Severity, message: str, at: Node | OptimizerFacts | None = None, **about: str | None
) -> Finding:
    place = at.place if at is not None else None
    return Finding(check, severity, message, place.line if place else None, place.file if place else None, **about)


Remark = Callable[[StepFacts], Iterator[Finding]]
_REMARKS: list[Remark] = []


def remark(function: Remark) -> Remark:
    _REMARKS.append(function)
    return function


def review(facts: StepFacts) -> list[Finding]:
    """Return what every remark has to say, worst first; one that fails is passed over."""
    from whynan.check.review import losses, parameters  # noqa: F401

    found: list[Finding] = []
    for find in _REMARKS:
        try:
            found += find(facts)
        except (ArithmeticError, ValueError, IndexError, KeyError, TypeError, AttributeError):
            continue
    unique = {(f.check, f.file, f.line, f.message): f for f in found}
    return sorted(unique.values(), key=lambda f: (_SEVERITY[f.severity], f.check, f.line or 0))


_SUMS = ("sum", "reduce_sum")
_SELECTING = ("maximum", "minimum", "clamp", "clamp_min", "clamp_max", "clip")


@dataclass(frozen=True)
class LogSoftmax:
    """`node` computes the logarithm of a softmax over `n` classes, of the operand `logits`."""

    node: Node
    logits: int
    n: int


def shifted_exp(context: Context, index: int) -> int | None:
    """Return x of exp(x - c), or of exp(x); None where an operand is no exponential."""
    node = context.maker(index)
    if node.op != "exp" or not node.inputs:
        return None
    inner = context.maker(node.inputs[0])
    return inner.inputs[0] if inner.op == "sub" and inner.inputs else node.inputs[0]


def softmax_of(context: Context, index: int) -> int | None:
    """Return x where an operand is softmax(x), as one operation or as exp(x - max) / sum(exp(x - max))."""
    node = context.maker(index)
    if node.op in ("_softmax", "softmax"):
        return node.inputs[0]
    if node.op != "div" or len(node.inputs) < 2:
        return None
    bottom = context.maker(node.inputs[1])
    if bottom.op not in _SUMS or not bottom.inputs or not context.is_same(node.inputs[0], bottom.inputs[0]):
        return None
    return shifted_exp(context, node.inputs[0])


def log_softmaxes(context: Context) -> Iterator[LogSoftmax]:
    """Yield every logarithm of a softmax that reaches the loss, and every logarithm of a sum of exponentials."""
    found = context.graph.relevant()
    for node in context.graph.nodes:
        if node.index not in found or node.phase != "forward" or not node.inputs:
            continue
        if node.op in ("_log_softmax", "log_softmax", "logsumexp"):
            logits = node.inputs[0]
        elif node.op == "log":
            total = context.maker(node.inputs[0])
            if total.op == "abs" and total.inputs:  # as JAX's logsumexp has it
                total = context.maker(total.inputs[0])
            x = shifted_exp(context, total.inputs[0]) if total.op in _SUMS and total.inputs else None
            if x is None:
                continue
            logits = x
        else:
            continue
        shape = context.node(logits).shape
        if len(shape) >= 2 and shape[-1] > 1:
            yield LogSoftmax(node, logits, shape[-1])


def probability_of(context: Context, index: int) -> str | None:
    """Return the name of what made an operand a probability: a sigmoid or a softmax, past clamps."""
    for _ in range(4):
        node = context.maker(index)
        if node.op in ("sigmoid", "logistic", "hardsigmoid"):
            return "sigmoid"
        if softmax_of(context, index) is not None:
            return "softmax"
        if node.op not in _SELECTING or not node.inputs:
            return None
        # Of maximum(1e-7, x) the constant may stand on either side.
        index = next((i for i in node.inputs if context.number(i) is None), node.inputs[0])
    return None


@dataclass(frozen=True)
class Clipped:
    """`node` is the logarithm of an operand `source` that was clipped to [eps, 1 - eps]."""

    node: Node
    source: int


def logs_of_clipped(context: Context) -> Iterator[Clipped]:
    """Yield logarithms of what is clipped to [eps, 1 - eps]: a cross-entropy that takes probabilities."""
    found = context.graph.relevant()
    for node in context.graph.nodes:
        if node.op != "log" or node.index not in found or node.phase != "forward":
            continue
        low, high, index = None, None, node.inputs[0]
        for _ in range(4):
            maker = context.maker(index)
            if maker.op not in _SELECTING or not maker.inputs:
                break
            numbers = [context.number(i) for i in maker.inputs]
            low = _bound(maker, "min", ("maximum", "clamp_min"), numbers) if low is None else low
            high = _bound(maker, "max", ("minimum", "clamp_max"), numbers) if high is None else high
            index = next((i for i, number in zip(maker.inputs, numbers) if number is None), maker.inputs[0])
        if low is not None and high is not None and 0 < low <= 1e-3 and 0.99 <= high < 1:
            yield Clipped(node, index)


def _bound(node: Node, name: str, ops: tuple[str, ...], numbers: list[float | None]) -> float | None:
    value = node.attrs.get(name)
    if isinstance(value, (int, float)):
        return float(value)
    place = node.attrs.get(f"{name}_input")
    if isinstance(place, int) and place < len(numbers):
        return numbers[place]
    return next((n for n in numbers if n is not None), None) if node.op in ops else None


def has_mean(context: Context, root: int, size: int) -> bool:
    """Whether a loss is a sum divided by a number of elements or rows, so that its size says something."""
    node = context.maker(root)
    for _ in range(4):
        if node.op in ("mean", "nll_loss_forward", "nll_loss2d_forward"):
            return True
        if node.op == "div" and len(node.inputs) > 1:
            bottom = context.node(node.inputs[1]).measured
            return (
                bottom is not None and bottom.lo == bottom.hi and bottom.lo > 1 and size % max(int(bottom.lo), 1) == 0
            )
        if node.op in ("select_n", "where") and len(node.inputs) > 1:
            node = context.maker(node.inputs[1])
        elif node.inputs:
            node = context.maker(node.inputs[0])
    return False


def is_cross_entropy(context: Context, root: int, form: LogSoftmax) -> bool:
    """Whether a loss is what was picked from a logarithm of a softmax, and nothing else: no weight, no other term."""
    node = context.maker(root)
    for _ in range(16):
        if node.index == form.node.index:
            return True
        if node.op == "sub":  # logits less their logsumexp, or that less the picked logit
            near = [context.maker(i) for i in node.inputs[:2]]
            near += [context.maker(i) for other in near if other.op in ("add", "name") for i in other.inputs]
            return any(other.index == form.node.index for other in near)
        is_count = node.op == "div" and len(node.inputs) > 1 and not context.values[node.inputs[1]].grad
        if is_count or (node.op in ("name", "neg", "sum", "mean", "gather", "reduce_sum") and node.inputs):
            node = context.maker(node.inputs[0])
        elif node.op in ("mul", "select_n", "where"):
            kept = [i for i in node.inputs if not _is_mask(context, i)]
            if len(kept) != 1:
                return False
            node = context.maker(kept[0])
        else:
            return False
    return False


def _is_mask(context: Context, index: int) -> bool:
    """Whether an operand is a plain number, a comparison, or 0s and 1s made of one."""
    node = context.maker(index)
    return node.op in ("eq", "lt", "gt", "ge", "le", "ne") or node.dtype == "bool" or not context.values[index].varies
