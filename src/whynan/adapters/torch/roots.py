"""Lines that made a value before anybody watched: where a data set's array was filled, a parameter left unwritten.

Read from the source, not measured: what is found is the only line of the user's code that can have done it, and a
report says that it is likely.
"""

import ast
import linecache
from collections.abc import Iterable, Iterator
from functools import cache

from whynan.adapters.common.positions import short_path
from whynan.launch.host import user_codes
from whynan.records import SourceLine

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
