"""Runs an iteration of a NumPy loop again with every operation handed to a recorder.

`a * b` becomes `__whynan_do__(n, "mul", a, b)`, a call, a subscript, an assignment in place likewise. Line numbers and
columns are the user's. Functions that ask for their caller (`super()`, `locals()`) are called as they are.
"""

import ast
import builtins
import operator
import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any, TypeVar

import numpy as np

from whynan.adapters.common.arrays import all_finite, to_numpy
from whynan.adapters.common.body import Around
from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.positions import called_name, plain_name, user_frames
from whynan.launch.host import is_user_file
from whynan.records import Role
from whynan.trace import Frame

_BINARY: dict[type, str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.MatMult: "matmul", ast.Pow: "pow",
    ast.Mod: "mod", ast.FloorDiv: "floordiv",
}  # fmt: skip
_UNTOUCHED = {"super", "locals", "globals", "vars", "dir", "eval", "exec", "print", "len", "range", "enumerate", "zip",
              "isinstance", "open", "type", "id", "iter", "next", "reversed", "input"}  # fmt: skip


_N = TypeVar("_N", bound=ast.AST)


class _Instrumenter(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        name = _BINARY.get(type(node.op))
        return self._do(node, name, [node.left, node.right]) if name else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            return self._do(node, "neg", [node.operand])
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load) and not _has_slice(node.slice):
            return self._do(node, "getitem", [node.value, node.slice])
        if isinstance(node.ctx, ast.Load):
            return self._do(node, "getitem", [node.value, _slice_as_call(node.slice)])
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _UNTOUCHED:
            return node
        new = ast.Call(ast.Name("__whynan_call__", ast.Load()), [node.func, *node.args], node.keywords)
        return _at(new, node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        self.generic_visit(node)
        name = _BINARY.get(type(node.op))
        if name is None:
            return node
        if isinstance(node.target, ast.Name):
            load = _at(ast.Name(node.target.id, ast.Load()), node.target)
            return _at(ast.Assign([node.target], self._do(node, f"i{name}", [load, node.value])), node)
        if isinstance(node.target, ast.Attribute):
            arguments = [node.target.value, _at(ast.Constant(node.target.attr), node.target), node.value]
            return _at(ast.Expr(self._do(node, f"iattr_{name}", arguments)), node)
        if isinstance(node.target, ast.Subscript):
            arguments = [node.target.value, _slice_as_call(node.target.slice), node.value]
            return _at(ast.Expr(self._do(node, f"iitem_{name}", arguments)), node)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        self.generic_visit(node)
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            arguments = [target.value, _slice_as_call(target.slice), node.value]
            return _at(ast.Expr(self._do(node, "setitem", arguments)), node)
        return node

    @staticmethod
    def _do(node: ast.AST, name: str, arguments: list[ast.expr]) -> ast.expr:
        operation = _at(ast.Constant(name), node)
        return _at(ast.Call(_at(ast.Name("__whynan_do__", ast.Load()), node), [operation, *arguments], []), node)


def _at(new: _N, old: ast.AST) -> _N:
    ast.copy_location(new, old)
    for child in ast.iter_child_nodes(new):
        if not hasattr(child, "lineno") and isinstance(child, (ast.expr, ast.stmt, ast.keyword)):
            ast.copy_location(child, old)
    return new


def _has_slice(node: ast.expr) -> bool:
    return isinstance(node, ast.Slice) or (isinstance(node, ast.Tuple) and any(map(_has_slice, node.elts)))


def _slice_as_call(node: ast.expr) -> ast.expr:
    """Return `a:b` as `slice(a, b)`, so that it can be an argument."""
    if isinstance(node, ast.Slice):
        none = ast.Constant(None)
        parts = [part if part is not None else none for part in (node.lower, node.upper, node.step)]
        return _at(ast.Call(ast.Name("slice", ast.Load()), parts, []), node)
    if isinstance(node, ast.Tuple):
        return _at(ast.Tuple([_slice_as_call(item) for item in node.elts], ast.Load()), node)
    return node


def instrumented(tree: ast.AST) -> ast.AST:
    """Return a module's tree with every operation handed to the recorder."""
    return _Instrumenter().visit(tree)  # type: ignore[no-any-return]


_DO: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "matmul": operator.matmul,
    "pow": operator.pow, "mod": operator.mod, "floordiv": operator.floordiv, "neg": operator.neg,
    "getitem": operator.getitem,
    "iadd": operator.iadd, "isub": operator.isub, "imul": operator.imul, "idiv": operator.itruediv,
    "imatmul": operator.imatmul, "ipow": operator.ipow, "imod": operator.imod, "ifloordiv": operator.ifloordiv,
}  # fmt: skip


class Recorder:
    """Answers instrumented code. `on_rows` may replace what a subscript picked out of the data."""

    numbers: tuple[type, ...] = (np.ndarray, np.generic, float)
    arrays: tuple[type, ...] = (np.ndarray,)
    framework = "numpy"

    def __init__(self, function_name: str, is_tracing: bool = True) -> None:
        self.graph = Graph()
        self.entry: FrameType | None = None
        self.function_name = function_name
        self.is_tracing = is_tracing
        self.gathers: list[tuple[int, Any, Any, Any]] = []
        """Rows picked from larger arrays: value, the array, the index, the result."""
        self.on_rows: Callable[[Any, Any, Any], Any] | None = None
        self.rates: dict[int, tuple[float, bool]] = {}
        """Of arrays, by their ids, from which a number times an array was subtracted: that number, and whether the
        code had computed it."""
        self._scaled: dict[int, tuple[float, bool]] = {}
        self._computed: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []
        self._n = 0

    # What is known of values ------------------------------------------------------------------------------------------

    def know(self, array: Any, role: Role, name: str) -> None:
        self.graph.give(self._new(array), role, name, to_numpy(array))

    def number_of(self, value: Any) -> int:
        seen = value
        while seen is not None:
            number = self._numbers.get(id(seen))
            if number is not None:
                return number
            seen = getattr(seen, "base", None) if isinstance(seen, np.ndarray) else None
        return self._new(value)

    def is_known(self, value: Any) -> bool:
        return id(value) in self._numbers

    def _new(self, value: Any) -> int:
        self._n += 1
        self._alive.append(value)
        self._numbers[id(value)] = self._n
        return self._n

    # What instrumented code calls -------------------------------------------------------------------------------------

    def do(self, name: str, *operands: Any) -> Any:
        if name.startswith("iattr_"):
            return self._in_attribute(name[6:], *operands)
        if name.startswith("iitem_"):
            return self._in_item(name[6:], *operands)
        if name == "setitem":
            return self._set_item(*operands)
        plain = name[1:] if name.startswith("i") and name[1:] in _DO else name
        before = self._before(operands, is_copied=plain != name)
        result = _DO[name](*operands)
        if plain in ("mul", "sub"):
            self._note_rate(plain, operands[0], operands[1], result)
        if isinstance(result, float):
            self._computed.add(id(result))
            self._alive.append(result)
        if name == "getitem":
            return self._picked(operands[0], operands[1], result, before)
        self._note(plain, plain, before, result, changes=operands[0] if plain != name else None)
        return result

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_users(function):
            return function(*args, **kwargs)
        owner = getattr(function, "__self__", None)
        given = [*([owner] if isinstance(owner, self.numbers) else []), *_flat(args), *_flat(kwargs.values())]
        before = self._before(given, is_copied="out" in kwargs)
        result = function(*args, **kwargs)
        name = str(getattr(function, "__name__", type(function).__name__))
        out = kwargs.get("out")
        picked = (owner, *args) if isinstance(owner, self.arrays) else args
        if name in _PICKS and len(picked) > 1:
            return self._picked(picked[0], picked[1], result, before, name)
        if out is None and isinstance(result, np.ndarray) and self.is_known(result):
            return result  # taken out of a container, or handed through
        self._note(plain_name(name), name, before, result, changes=out if isinstance(out, np.ndarray) else None)
        return result

    def _note_rate(self, name: str, left: Any, right: Any, result: Any) -> None:
        if name == "sub" and id(right) in self._scaled:
            self.rates[id(left)] = self._scaled[id(right)]
        for number, array in ((left, right), (right, left)) if name == "mul" else ():
            if isinstance(number, float) and isinstance(array, np.ndarray):
                self._scaled[id(result)] = float(number), id(number) in self._computed
                self._alive.append(result)

    def _in_attribute(self, name: str, owner: Any, attribute: str, operand: Any) -> None:
        value = getattr(owner, attribute)
        setattr(owner, attribute, self.do(f"i{name}", value, operand))

    def _in_item(self, name: str, owner: Any, index: Any, operand: Any) -> None:
        value = owner[index]
        before = self._before([value if not isinstance(owner, np.ndarray) else owner, operand], is_copied=True)
        result = _DO[f"i{name}"](value, operand)
        owner[index] = result
        if isinstance(owner, np.ndarray):
            # The whole array is what later operations get.
            self._note(f"{name}_at", f"{name}.at", before, owner, changes=owner)
        else:
            self._note(name, name, before, result)

    def _set_item(self, owner: Any, index: Any, value: Any) -> None:
        before = self._before([owner, value], is_copied=True)
        owner[index] = value
        if isinstance(owner, np.ndarray):
            self._note("setitem", "setitem", before, owner, changes=owner)

    def _picked(self, owner: Any, index: Any, result: Any, before: Any, name: str = "getitem") -> Any:
        if not isinstance(owner, self.arrays):
            return result  # what a list or a dict holds is known by itself
        if _is_of_rows(owner, result) and _names_rows(index):
            if self.on_rows is not None:
                result = self.on_rows(owner, index, result)
            self.gathers.append((self._n, owner, index, result))
        self._note(name, name, before, result)
        return result

    # Noting -----------------------------------------------------------------------------------------------------------

    def _before(self, operands: Any, is_copied: bool = False) -> list[tuple[int, Any]]:
        """Return the operands and their numbers, as they are before an operation that changes one of them."""
        if not self.is_tracing:
            return []
        given = [value for value in operands if isinstance(value, self.numbers)]
        return [(self.number_of(value), _copy(value) if is_copied else value) for value in given]

    def _note(
        self, name: str, framework_op: str, given: list[tuple[int, Any]], result: Any, changes: Any = None
    ) -> None:
        if not self.is_tracing:
            return
        outputs = [value for value in _flat([result]) if isinstance(value, self.numbers)]
        if not outputs:
            return
        stack = self._stack()
        numbers = [self._new(value) for value in outputs]
        if changes is not None:
            target = changes
            while isinstance(target, np.ndarray):
                self._numbers[id(target)] = numbers[0]
                self._alive.append(target)
                target = target.base
        # Later changes in place must not be seen in what is noted now.
        inputs = [(number, value) for number, value in given if number not in numbers]
        node = Node(
            index=len(self.graph.nodes),
            name=name,
            framework_op=f"{self.framework}.{framework_op}",
            phase="forward",
            stack=stack,
            inputs=tuple(number for number, _ in inputs),
            outputs=tuple(numbers),
            called=called_name(stack[0]) if stack else None,
        )
        arrays = [to_numpy(value) for value in outputs]
        copies = [a if a is None or all_finite(a) else a.copy() for a in arrays]
        self.graph.add(node, lambda: [_copy(to_numpy(value)) for _, value in inputs], copies)

    def _stack(self) -> tuple[Frame, ...]:
        frames = user_frames(sys._getframe(3), self.entry)
        return tuple(
            Frame(f.file, f.line, self.function_name, f.code, f.lasti) if f.function == "<module>" else f
            for f in frames
        )


_PICKS = {"gather", "gather_v2", "take"}


def _is_of_rows(owner: Any, result: Any) -> bool:
    return hasattr(result, "dtype") and result.ndim == owner.ndim > 0 and len(result) < len(owner)


def _names_rows(index: Any) -> bool:
    if isinstance(index, slice):
        return True
    if isinstance(index, list):
        return all(isinstance(i, (int, np.integer)) for i in index)
    array = to_numpy(index) if hasattr(index, "dtype") else None
    return array is not None and array.ndim == 1 and array.dtype.kind in "iu"


def _copy(array: Any) -> Any:
    return array.copy() if isinstance(array, np.ndarray) else array


def _flat(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)) and len(value) <= 64:
            found += _flat(value)
        else:
            found.append(value)
    return found


def _is_users(function: Any) -> bool:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None:
        return is_user_file(code.co_filename)
    if isinstance(function, type):
        code = getattr(function.__dict__.get("__init__"), "__code__", None)
        return code is not None and is_user_file(code.co_filename)
    code = getattr(vars(type(function)).get("__call__"), "__code__", None)
    return code is not None and is_user_file(code.co_filename)


def answering(recorder: Recorder) -> Around:
    """Let instrumented code be answered by the recorder; overflows are what is looked for, not warned of."""

    def around(stack: ExitStack, entry: FrameType) -> None:
        space = builtins.__dict__
        recorder.entry = entry
        space["__whynan_do__"], space["__whynan_call__"] = recorder.do, recorder.call
        stack.callback(space.pop, "__whynan_do__", None)
        stack.callback(space.pop, "__whynan_call__", None)
        stack.enter_context(np.errstate(all="ignore"))

    return around
