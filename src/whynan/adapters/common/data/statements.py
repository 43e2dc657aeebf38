"""The statement that a line of the user's source belongs to, and what it reads."""

import ast
import linecache
from functools import lru_cache
from typing import Any

from whynan.adapters.common.data.evaluate import evaluate
from whynan.adapters.common.data.values import is_bad

_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


@lru_cache(maxsize=64)
def _statements(file: str) -> list[ast.stmt]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]


def statement_at(file: str, line: int) -> ast.stmt | None:
    """Return the innermost statement that covers a line; of a compound statement only its header counts."""
    best = None
    for node in _statements(file):
        if node.lineno <= line <= _last_line(node) and (best is None or node.lineno >= best.lineno):
            best = node
    return best


def _last_line(node: ast.stmt) -> int:
    bodies = [getattr(node, name, None) for name in _BODIES]
    starts: list[int] = [body[0].lineno for body in bodies if body and hasattr(body[0], "lineno")]
    if starts:
        return max(node.lineno, min(starts) - 1)
    return node.end_lineno or node.lineno


def header(node: ast.stmt) -> list[ast.AST]:
    """Return the expressions that a statement evaluates itself, without those of the statements inside it."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return []
    parts: list[ast.AST] = []
    for name, value in ast.iter_fields(node):
        if name not in _BODIES:
            parts += [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, ast.AST)]
    if isinstance(node, ast.AugAssign):
        operation = ast.BinOp(left=_as_read(node.target), op=node.op, right=node.value)
        return [ast.copy_location(operation, node)]
    return parts


def _as_read(target: Any) -> Any:
    copied = ast.parse(ast.unparse(target), mode="eval").body
    return ast.copy_location(copied, target)


def bad_reads(parts: list[ast.AST], names: dict[str, Any]) -> list[str]:
    """Return the variables that are read and hold something non-finite in the part that is read of them."""
    found: dict[str, None] = {}

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            root = _root(node)
            if root is not None:
                try:
                    bad = is_bad(evaluate(node, names))
                except Exception:
                    bad = is_bad(names.get(root))
                if bad:
                    found[root] = None
                visit(node.slice)
                return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and is_bad(names.get(node.id)):
            found[node.id] = None
        for child in ast.iter_child_nodes(node):
            visit(child)

    for part in parts:
        visit(part)
    return list(found)


def _root(node: ast.AST) -> str | None:
    """The variable that a chain of subscripts begins with; None where an attribute or a call comes first."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def changes_in_place(node: ast.stmt) -> bool:
    """Tell whether a statement may change an array that it also reads: `x /= s`, `x[m] = v`, `normalize_(x)`."""
    if isinstance(node, (ast.AugAssign, ast.Expr)):
        return True
    return isinstance(node, ast.Assign) and any(isinstance(target, ast.Subscript) for target in node.targets)
