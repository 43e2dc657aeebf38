"""Performs the operations of an instrumented step, and notes each in a graph."""

import operator
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from whynan.adapters.common.arrays import all_finite, to_numpy
from whynan.adapters.common.body import BODY
from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.names import plain_name
from whynan.adapters.common.positions import called_name, user_frames
from whynan.launch.host import is_user_file
from whynan.records.tensor import Role
from whynan.trace.graph import Frame

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
    framework = "numpy"

    def __init__(self, function_name: str, is_tracing: bool = True) -> None:
        self.graph = Graph()
        self.entry: FrameType | None = None
        self.function_name = function_name
        self.is_tracing = is_tracing
        self.gathers: list[tuple[int, Any, Any, Any]] = []
        """Rows picked from larger arrays: value, the array, the index, the result."""
        self.on_rows: Callable[[Any, Any, Any], Any] | None = None
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []
        self._n = 0

    # What is known of values ------------------------------------------------------------------------------------------

    def know(self, array: Any, role: Role, name: str) -> None:
        self.graph.give(self._new(array), role, name, to_numpy(array))

    def number_of(self, value: Any) -> int:
        """Return the number of a value; of a view that of the array it looks into."""
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
        """Perform an operator."""
        if name.startswith("iattr_"):
            return self._in_attribute(name[6:], *operands)
        if name.startswith("iitem_"):
            return self._in_item(name[6:], *operands)
        if name == "setitem":
            return self._set_item(*operands)
        plain = name[1:] if name.startswith("i") and name[1:] in _DO else name
        before = self._before(operands, is_copied=plain != name)
        result = _DO[name](*operands)
        if name == "getitem":
            return self._picked(operands[0], operands[1], result, before)
        self._note(plain, plain, before, result, changes=operands[0] if plain != name else None)
        return result

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function; one of the user's notes its own operations."""
        if _is_users(function):
            return function(*args, **kwargs)
        owner = getattr(function, "__self__", None)
        given = [*([owner] if isinstance(owner, self.numbers) else []), *_flat(args), *_flat(kwargs.values())]
        before = self._before(given, is_copied="out" in kwargs)
        result = function(*args, **kwargs)
        name = str(getattr(function, "__name__", type(function).__name__))
        out = kwargs.get("out")
        if out is None and isinstance(result, np.ndarray) and self.is_known(result):
            return result  # taken out of a container, or handed through
        self._note(plain_name(name), name, before, result, changes=out if isinstance(out, np.ndarray) else None)
        return result

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

    def _picked(self, owner: Any, index: Any, result: Any, before: Any) -> Any:
        if not isinstance(owner, np.ndarray):
            return result  # what a list or a dict holds is known by itself
        if isinstance(owner, np.ndarray) and isinstance(result, np.ndarray):
            is_rows = isinstance(index, slice) or (isinstance(index, np.ndarray) and index.dtype.kind in "iu")
            is_rows = is_rows or (isinstance(index, list) and all(isinstance(i, (int, np.integer)) for i in index))
            if is_rows and result.ndim == owner.ndim and len(result) < len(owner):
                if self.on_rows is not None:
                    result = self.on_rows(owner, index, result)
                self.gathers.append((self._n, owner, index, result))
        self._note("getitem", "getitem", before, result)
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
            Frame(f.file, f.line, self.function_name, f.code, f.lasti) if f.function in (BODY, "<module>") else f
            for f in frames
        )


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
