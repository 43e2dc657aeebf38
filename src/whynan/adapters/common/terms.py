"""The summands of the loss by the names that the script gives them."""

import ast
import linecache
import math

from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.positions import expression_of
from whynan.records import LossTerm

_SUMS = {"add", "sub", "sum"}
_SCALES = {"mul", "div", "neg", "identity", "reshape", "squeeze", "convert_element_type", "cast", "name", "mean"}
_DEPTH = 24
_MODULES = {"np", "tf", "jnp", "jax", "ops", "mint", "ms", "mindspore", "keras", "numpy", "optax", "nn", "math"}


def find_terms(graph: Graph, loss: int | None, origin: int | None = None) -> tuple[LossTerm, ...]:
    """Return the one-element values that were added up to the loss, those that are not finite marked.

    The sum is undone from its end: an addition leads to its two operands, a factor to what it scales. A term is known
    by the name that its own line, or the line of the addition, binds or reads. Where all are finite, the one that the
    forward operation of node `origin` has gone into is marked, if it is one only.
    """
    if loss is None:
        return ()
    todo, terms = [(loss, 0)], list[int]()
    said: dict[int, str] = {}
    while todo:
        value, depth = todo.pop(0)
        node = _node_of(graph, value)
        inner = _operands(graph, node) if node is not None and depth < _DEPTH else []
        if inner and node is not None:
            said.update({operand: name for operand, name in zip(inner, _names_added(node)) if name is not None})
            todo += [(operand, depth + 1) for operand in inner]
        else:
            terms.append(value)
    if len(terms) < 2:
        return ()
    named = [(said.get(value) or _name_of(graph, value), value) for value in terms if value in graph.scalars]
    bad = [value for _, value in named if not math.isfinite(graph.scalars[value])]
    if not bad and origin is not None:
        bad = _through(graph, [value for _, value in named], origin)
    first = min(bad, key=lambda value: graph.producer.get(value, 0), default=None)
    # Several terms may be bad for the same reason; each that is bad by itself counts as a first one.
    return tuple(
        LossTerm(name, graph.scalars[value], value == first or (value in bad and _is_own(graph, value, bad)))
        for name, value in named
        if name is not None
    )


def _names_added(node: Node) -> tuple[str | None, str | None]:
    """Return the variables that an addition reads: a and b for `a + b`, None for what is no variable."""
    frame = node.stack[0] if node.stack else None
    try:
        tree = ast.parse((expression_of(frame.code, frame.lasti) or "").strip() if frame else "", mode="eval").body
    except (SyntaxError, ValueError):
        return None, None
    if not isinstance(tree, ast.BinOp) or not isinstance(tree.op, (ast.Add, ast.Sub)):
        return None, None
    left, right = (side.id if isinstance(side, ast.Name) else None for side in (tree.left, tree.right))
    return left, right


def _through(graph: Graph, values: list[int], origin: int) -> list[int]:
    forward = graph.nodes[origin].forward
    index = origin if forward is None else forward
    made = {output for node in graph.descendants(index) for output in node.outputs} | set(graph.nodes[index].outputs)
    found = [value for value in values if value in made]
    return found if len(found) < len(values) else []


def _node_of(graph: Graph, value: int) -> Node | None:
    index = graph.producer.get(value)
    return graph.nodes[index] if index is not None else None


def _operands(graph: Graph, node: Node) -> list[int]:
    given = [value for value in node.inputs if graph.n_elements.get(value) == 1 and value in graph.producer]
    if node.name in _SUMS and len(given) == len(node.inputs) == 2:
        return given
    if node.name in _SCALES and len(given) == 1:
        inner = _node_of(graph, given[0])
        return given if inner is not None and (inner.name in _SUMS | _SCALES) else []
    return []


def _is_own(graph: Graph, value: int, bad: list[int]) -> bool:
    """Whether no other bad term is among what the value was made from."""
    made_of = {output for node in graph.ancestors([value], 400) for output in node.outputs} - {value}
    return not made_of & set(bad)


def _name_of(graph: Graph, value: int) -> str | None:
    node = _node_of(graph, value)
    for frame in node.stack if node is not None else ():
        line = linecache.getline(frame.file, frame.line)
        text = expression_of(frame.code, frame.lasti)
        statement = _statement(frame.file, frame.line) or line
        try:
            tree = ast.parse(statement.strip()).body[0]
        except (SyntaxError, ValueError, IndexError):
            continue
        if not isinstance(tree, ast.Assign) or len(tree.targets) != 1:
            continue
        target = tree.targets[0]
        if isinstance(target, ast.Name) and (text is None or node is not None):
            return target.id
    # No name is bound to it: the variable that its expression begins with.
    first = node.stack[0] if node is not None and node.stack else None
    return _read_first(expression_of(first.code, first.lasti)) if first is not None else None


def _read_first(text: str | None) -> str | None:
    """Return the variable that an expression reads first: box for `5.0 * box.sum() / n`. Modules' names are none."""
    try:
        tree = ast.parse((text or "").strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    own = [n for n in names if n.id not in _MODULES and not n.id.startswith("self") and not _is_function(tree, n)]
    return min(own, key=lambda n: (n.lineno, n.col_offset)).id if own else None


def _is_function(tree: ast.AST, name: ast.Name) -> bool:
    return any(isinstance(n, ast.Call) and n.func is name for n in ast.walk(tree))


def _statement(file: str, line: int) -> str | None:
    """Return the whole simple statement that a line lies in."""
    lines = linecache.getlines(file)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not hasattr(node, "body") and node.lineno <= line <= (node.end_lineno or 0):
            text = [*lines[node.lineno - 1 : node.end_lineno]]
            return "".join(text).strip()
    return None
