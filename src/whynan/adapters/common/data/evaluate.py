"""Expressions of the user's source evaluated again, the statement that a line belongs to, and what it reads."""

import ast
import builtins
import linecache
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from whynan.adapters.common.arrays import FRAMEWORKS, is_bad, is_torch_tensor

OPERATORS: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("subtract", operator.sub),
    ast.Mult: ("multiply", operator.mul),
    ast.Div: ("divide", operator.truediv),
    ast.FloorDiv: ("floor_divide", operator.floordiv),
    ast.Mod: ("remainder", operator.mod),
    ast.Pow: ("power", operator.pow),
    ast.MatMult: ("matmul", operator.matmul),
}

_PURE = """
abs absolute acos acosh add all amax amin any arange arccos arccosh arcsin arctan arctan2 arctanh array asarray asin
astype atan atan2 atanh cast cat ceil clamp clip clone concatenate copy cos cosh cross cumprod cumsum deg2rad div divide
dot double einsum exp exp2 expand_dims expm1 fabs flatten flip float float16 float32 float64 floor from_numpy half
hypot int item len linspace log log10 log1p log2 logit matmul max maximum mean median min minimum mul multiply
nan_to_num nanmean nanstd norm numpy ones_like permute pow power prod realdiv reciprocal reduce_max reduce_mean
reduce_min reduce_std reduce_sum reduce_variance reshape round rsqrt sigmoid sign
sin sinh size softmax sqrt square squeeze stack std sub subtract sum swapaxes tan tanh tensor to_numpy tolist
transpose true_divide unsqueeze var view where zeros_like
"""
PURE = frozenset(_PURE.split())
"""Functions of NumPy, of the frameworks and math, and methods of their arrays, that change nothing and draw nothing."""

_ROOTS = ("numpy", "torch", "math", *FRAMEWORKS)


class NotEvaluatedError(Exception):
    """The value of an expression that is not evaluated, because that might run the user's code or change something."""


@dataclass(frozen=True)
class Culprit:
    """The sub-expression that is non-finite although its operands are finite.

    `kind` is "op" for an operation, "stored" for a value read from somewhere, "constant" for a literal NaN or infinity.
    """

    kind: str
    op: str
    node: ast.expr
    operands: tuple[Any, ...]
    value: Any


def find_culprit(root: ast.AST, names: dict[str, Any]) -> Culprit | None:
    """Return the first sub-expression, in the order of evaluation, that turns finite operands into a bad value.

    A literal infinity is often only a bound; it is the answer where nothing else is.
    """
    constant = None
    for node in _post_order(root):
        try:
            value = evaluate(node, names)
        except Exception:
            continue
        if not is_bad(value):
            continue
        culprit = _classify(node, value, names)
        if culprit is not None and culprit.kind != "constant":
            return culprit
        constant = constant or culprit
    return constant


def evaluate(node: ast.AST, names: dict[str, Any]) -> Any:
    """Return an expression's value; NotEvaluatedError where finding it out might have an effect."""
    handler = _HANDLERS.get(type(node))
    if handler is None:
        raise NotEvaluatedError(type(node).__name__)
    return handler(node, names)


def op_name(node: ast.AST) -> str | None:
    """Return the plain name of the operation that an expression is: "divide", "log", "mean"; None for no operation."""
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        return OPERATORS[type(node.op)][0] if type(node.op) in OPERATORS else None
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            return node.func.attr
        return node.func.id if isinstance(node.func, ast.Name) else None
    return None


def _classify(node: ast.expr, value: Any, names: dict[str, Any]) -> Culprit | None:
    operands = []
    for child in _operands(node):
        if isinstance(node, ast.Subscript):
            continue
        try:
            operand = evaluate(child, names)
        except Exception:
            return None if isinstance(node, (ast.BinOp, ast.Call)) else Culprit("stored", "data", node, (), value)
        if is_bad(operand) and isinstance(node, (ast.BinOp, ast.Call, ast.UnaryOp)):
            return None  # a bad operand that is a plain variable: made elsewhere
        operands.append(operand)
    if isinstance(node, (ast.Subscript, ast.Attribute)):
        if isinstance(node, ast.Attribute) and operands and isinstance(operands[0], ModuleType):
            return Culprit("constant", "constant", node, (), value)
        return Culprit("stored", "data", node, (), value)
    if isinstance(node, (ast.Constant, ast.UnaryOp)):
        return Culprit("constant", "constant", node, (), value)
    name = op_name(node)
    if name is None:
        return None
    if name in ("float", "float32", "float64") and isinstance(node, ast.Call) and operands:
        if isinstance(node.args[0], ast.Constant):
            return Culprit("constant", "constant", node, (), value)
        if isinstance(operands[0], str):  # "nan" in a file
            return Culprit("stored", "data", node, (), value)
    return Culprit("op", name, node, tuple(operands), value)


def _operands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    if isinstance(node, (ast.Subscript, ast.Attribute)):
        return [node.value]
    if isinstance(node, ast.Call):
        receiver = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        return [part for part in receiver if not _is_module_path(part)] + list(node.args)
    return []


def _is_module_path(node: ast.expr) -> bool:
    """`np`, `torch.linalg`: by custom short lower-case names of imported modules."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in ("np", "numpy", "torch", "math", "F", "nn", "tf", "jnp", "ops")


def _post_order(root: ast.AST) -> list[Any]:
    """Expressions that are read, operands before operations; not the bodies of lambdas."""
    found: list[Any] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Lambda):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)
            if isinstance(node, ast.Subscript) and found and found[-1] is node.value:
                found.pop()  # the whole data set; what counts is the part that is taken
        if isinstance(node, ast.expr) and not isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
            found.append(node)

    visit(root)
    return found


def _is_number_like(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    if isinstance(value, (int, float, complex)) or is_torch_tensor(value):
        return True
    if type(value).__module__.split(".")[0] in FRAMEWORKS:
        return hasattr(value, "dtype") and hasattr(value, "shape")
    return numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic))


def _name(node: Any, names: dict[str, Any]) -> Any:
    if node.id not in names:
        raise NotEvaluatedError(node.id)
    return names[node.id]


def _attribute(node: Any, names: dict[str, Any]) -> Any:
    base = evaluate(node.value, names)
    if isinstance(base, ModuleType) and base.__name__.split(".")[0] in _ROOTS:
        return getattr(base, node.attr)
    if _is_number_like(base) or type(base).__module__.startswith("pandas"):
        return getattr(base, node.attr)
    held = getattr(base, "__dict__", {})
    if node.attr in held:
        return held[node.attr]
    raise NotEvaluatedError(node.attr)


def _subscript(node: Any, names: dict[str, Any]) -> Any:
    base = evaluate(node.value, names)
    known = (
        _is_number_like(base) or type(base) in (list, tuple, dict, str) or type(base).__module__.startswith("pandas")
    )
    if not known:
        raise NotEvaluatedError("subscript")
    return base[evaluate(node.slice, names)]


def _slice(node: Any, names: dict[str, Any]) -> slice:
    return slice(*(None if part is None else evaluate(part, names) for part in (node.lower, node.upper, node.step)))


def _bin_op(node: Any, names: dict[str, Any]) -> Any:
    left, right = evaluate(node.left, names), evaluate(node.right, names)
    if not (_is_number_like(left) and _is_number_like(right)):
        raise NotEvaluatedError("operands")
    if isinstance(node.op, ast.Pow) and isinstance(left, int) and isinstance(right, int):
        raise NotEvaluatedError("a power of integers may be without end")
    return OPERATORS[type(node.op)][1](left, right)


def _unary_op(node: Any, names: dict[str, Any]) -> Any:
    value = evaluate(node.operand, names)
    if not _is_number_like(value):
        raise NotEvaluatedError("operand")
    known: dict[Any, Callable[[Any], Any]] = {
        ast.USub: operator.neg,
        ast.UAdd: operator.pos,
        ast.Invert: operator.invert,
        ast.Not: operator.not_,
    }
    return known[type(node.op)](value)


def _compare(node: Any, names: dict[str, Any]) -> Any:
    known = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq}
    left, right = evaluate(node.left, names), evaluate(node.comparators[0], names)
    if len(node.ops) > 1 or type(node.ops[0]) not in known or not (_is_number_like(left) and _is_number_like(right)):
        raise NotEvaluatedError("comparison")
    return known[type(node.ops[0])](left, right)


def _call(node: Any, names: dict[str, Any]) -> Any:
    function = node.func
    name = op_name(node)
    if name not in PURE or any(isinstance(part, ast.Starred) for part in node.args):
        raise NotEvaluatedError(str(name))
    if isinstance(function, ast.Name):
        target: Any = names.get(function.id, getattr(builtins, function.id, None))
        module = getattr(target, "__module__", None) or ""
        if not (module in ("builtins", "math") or module.split(".")[0] in _ROOTS):
            raise NotEvaluatedError(function.id)
    else:
        base = evaluate(function.value, names)
        module_like = isinstance(base, ModuleType) and base.__name__.split(".")[0] in _ROOTS
        if not (module_like or _is_number_like(base) or type(base).__module__.startswith("pandas")):
            raise NotEvaluatedError(function.attr)
        target = getattr(base, function.attr)
    args = [evaluate(part, names) for part in node.args]
    options = {part.arg: evaluate(part.value, names) for part in node.keywords}
    if "out" in options or None in options:
        raise NotEvaluatedError("out")
    return target(*args, **options)


def _elements(node: Any, names: dict[str, Any]) -> Any:
    made = [evaluate(part, names) for part in node.elts]
    return tuple(made) if isinstance(node, ast.Tuple) else made


def _constant(node: Any, names: dict[str, Any]) -> Any:
    return node.value


_HANDLERS: dict[type[ast.AST], Callable[[Any, dict[str, Any]], Any]] = {
    ast.Name: _name,
    ast.Constant: _constant,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.Slice: _slice,
    ast.BinOp: _bin_op,
    ast.UnaryOp: _unary_op,
    ast.Compare: _compare,
    ast.Call: _call,
    ast.Tuple: _elements,
    ast.List: _elements,
}


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
