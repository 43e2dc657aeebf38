"""What the user's live frames hold: what a sample may have come from, and the summands of the loss by name."""

import ast
import functools
import linecache
import math
import re
import sys
from collections.abc import Callable
from typing import Any

from whynan.adapters.common.arrays import is_array
from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.positions import expression_of
from whynan.launch.host import is_user_file
from whynan.records import LossTerm

_MAX_GROUP = 8


def user_spaces() -> list[dict[str, Any]]:
    """Return the names that the user's frames on the stack hold, local and global ones, each dictionary once."""
    found: dict[int, dict[str, Any]] = {}
    frame = sys._getframe(1)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            for space in (frame.f_locals, frame.f_globals):
                found.setdefault(id(space), space)
        frame = frame.f_back  # type: ignore[assignment]
    return list(found.values())


def user_values() -> list[Any]:
    return [value for space in user_spaces() for value in list(space.values())]


def user_arrays(
    skip: Callable[[str, Any], bool] = lambda name, value: False, batch_size: int | None = None
) -> list[Any]:
    """Return arrays, and groups of them, that the user's frames on the stack hold; `skip` tells which are no source.

    With `batch_size` what a loop binds, or a function without one, and is of that length is the batch itself, and no
    source of it either.

    Of a frame's arrays those come first which the loop that it is in speaks of: a batch is taken from the training
    part, and not from the whole that this part was cut from. What the loop itself binds, the batch, comes last.
    """
    found: list[Any] = []
    frame = sys._getframe(1)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            spaces = [frame.f_locals] if frame.f_locals is frame.f_globals else [frame.f_locals, frame.f_globals]
            items = [item for space in spaces for item in list(space.items())]
            read, bound = _names_in_loop(frame.f_code.co_filename, frame.f_lineno)
            if not read and spaces[0] is not frame.f_globals:
                bound = frozenset(spaces[0])  # a step that is a function
            for name, value in sorted(items, key=lambda item: 2 if item[0] in bound else item[0] not in read):
                if skip(name, value) or (name in bound and batch_size is not None and _length(value) == batch_size):
                    continue
                if isinstance(value, (tuple, list)) and 0 < len(value) <= _MAX_GROUP and all(map(is_array, value)):
                    found.append(tuple(value))
                elif isinstance(value, dict) and 0 < len(value) <= _MAX_GROUP and all(map(is_array, value.values())):
                    found.append(tuple(value.values()))
                elif is_array(value):
                    found.append(value)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _length(value: Any) -> int | None:
    """Return the number of rows of an array, or of the first of a group of them."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    return int(value.shape[0]) if is_array(value) else None


@functools.lru_cache(maxsize=64)
def _names_in_loop(file: str, line: int) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that the innermost loop around a line reads, and those that it binds; none without a loop."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return frozenset(), frozenset()
    loops = [node for node in ast.walk(tree)
             if isinstance(node, (ast.For, ast.While)) and node.lineno <= line <= (node.end_lineno or 0)]  # fmt: skip
    if not loops:
        return frozenset(), frozenset()
    inner = max(loops, key=lambda node: node.lineno)
    names = [node for node in ast.walk(inner) if isinstance(node, ast.Name)]
    bound = frozenset(node.id for node in names if isinstance(node.ctx, ast.Store))
    return frozenset(node.id for node in names) - bound, bound


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
    """Return the variable that an expression reads first: box for `5.0 * box.sum() / n` and `beta * box`, whose
    factor only weighs. Modules' names are none."""
    try:
        tree = ast.parse((text or "").strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    own = [n for n in names if n.id not in _MODULES and not n.id.startswith("self") and not _is_function(tree, n)]
    return min(own, key=lambda n: (bool(_WEIGHT.match(n.id)), n.lineno, n.col_offset)).id if own else None


_WEIGHT = re.compile(r"(w|\w*weights?|lam|lambd\w*|alpha|beta|gamma|coef\w*|\w+_coef\w*|scale|[A-Z\d_]+)$")


def _is_function(tree: ast.AST, name: ast.Name) -> bool:
    return any(isinstance(n, ast.Call) and n.func is name for n in ast.walk(tree))


def _statement(file: str, line: int) -> str | None:
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
