"""Transfer functions, one family a file: the range of an output from those of its operands; and that of every node."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from whynan.check.context import Context
from whynan.check.graph import INF, Graph, Node, Range, of

Transfer = Callable[[Node, Sequence[Range], Context], Range]
TRANSFERS: dict[str, Transfer] = {}


def transfers(*names: str) -> Callable[[Transfer], Transfer]:
    """Register a transfer function for these operations."""

    def register(function: Transfer) -> Transfer:
        for name in names:
            TRANSFERS[name] = function
        return function

    return register


def load() -> dict[str, Transfer]:
    """Return every transfer function by operation, all families imported."""
    from whynan.check.transfer import arithmetic, creation, elementwise, reductions, shapes  # noqa: F401

    return TRANSFERS


RANDOM = frozenset(
    """rand randn rand_like randn_like normal normal_ uniform_ bernoulli bernoulli_ randint randperm""".split()  # noqa: SIM905
)


def analyse(graph: Graph, growth: float | None = 16.0) -> Context:
    """Return the range of every node of `graph`.

    Args:
        graph: of one step.
        growth: how many times its measured size a learned sum may reach by training. None takes no estimate: a range
            then holds every value that the operation can have for operands in their ranges.
    """
    transfers = load()
    context = Context(graph, growth)
    for node in graph.nodes:
        context.learn(node)
        ins = [context.values[i] for i in node.inputs]
        context.values.append(_range_of(node, ins, context, transfers))
    return context


def _range_of(node: Node, ins: Sequence[Range], context: Context, transfers: dict[str, Transfer]) -> Range:
    from whynan.check.transfer.creation import leaf

    if node.kind not in ("op", "random") and not (node.kind == "constant" and node.op in transfers):
        return leaf(node, context)
    function = transfers.get(node.op) or transfers.get(node.op.rstrip("_"))  # in place it is the same function
    if function is None:
        out = unknown(node, ins, context)
    else:
        try:
            out = function(node, ins, context)
        except (ArithmeticError, ValueError, IndexError, TypeError, KeyError):
            out = unknown(node, ins, context)  # an argument in a form that the rule does not know
    if out.grad and not node.differentiable:
        out = replace(out, grad=False)
    measured = node.measured
    if ins and not any(r.varies for r in ins) and node.op not in RANDOM and node.kind == "op" and measured is not None:
        # Made of constants alone it is the same each time: what was measured is all there is.
        masked = out.masked or bool(node.attrs.get("has_minus_inf"))
        return replace(
            out,
            lo=measured.lo,
            hi=measured.hi,
            nonzero=measured.least > 0,
            varies=False,
            masked=masked,
            empty=False,
            steep=False,
        )
    return out


def unknown(node: Node, ins: Sequence[Range], context: Context) -> Range:
    """Return the range of an operation that there is no rule for."""
    from whynan.check.transfer.shapes import estimated

    if not ins:
        return Range(-INF, INF, varies=node.kind != "constant")
    if node.measured is not None and context.growth is not None:
        return estimated(node, of(-INF, INF, *ins), context)
    return of(-INF, INF, *ins, masked=False)
