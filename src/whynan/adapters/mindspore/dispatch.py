"""Sees each operation of a step: by MindSpore's dispatch mode, and by what stands in for it before 2.9.

The stand-in replaces what calls kernels from Python while it is entered: the kernels' functions in the library's own
modules, the methods of tensors, and the executor of primitives that have no function of their own. The mode does not
see all of them (`ops.concat`, `mint.cat` and dropout are not): functions and primitives are replaced there too.
"""

import functools
import sys
from types import BuiltinFunctionType
from typing import Any

import mindspore as ms

from whynan.adapters.common.patches import Patches
from whynan.adapters.mindspore.arrays import tensors_in
from whynan.adapters.mindspore.versions import api

_OPERATORS = {
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "neg", "abs", "getitem", "setitem",
    "and", "or", "xor",
}  # fmt: skip
_SPELT = {"Truediv": "Div", "Mm": "MatMul", "Matmul": "MatMul", "Setitem": "InplaceCopy", "Negative": "Neg"}
_NO_OPERATION = {
    "data_sync",
    "storage",
    "untyped_storage",
    "set_",
    "set_dtype",
    "move_to",
    "pin_memory",
    "hooks",
    "asnumpy",
}


class Operation:
    """What an operation is called, and the call itself."""

    def __init__(self, name: str, call: Any) -> None:
        self.name = name
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


class PatchedDispatch:
    """Hands every operation to `__ms_dispatch__`, as MindSpore's own mode does from 2.9 on."""

    is_alone = True
    """Whether there is no mode that sees operations."""

    def __enter__(self) -> Any:
        self._calls = Patches()
        for owner, name in _kernels():
            self._calls.replace(owner, name, functools.partial(self._seen, _camel(name)))
        for kind, name in _primitives():
            self._calls.replace(kind, "__call__", functools.partial(self._seen, name))
        if not self.is_alone:
            return self
        for name in ("run_op_async", "real_run_op"):
            self._calls.replace(api._PyNativeExecutor, name, self._run_op)
        for name in _methods():
            self._calls.replace(ms.Tensor, name, functools.partial(self._seen, _camel(name)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._calls.undo()

    def __ms_dispatch__(self, func: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError

    def _seen(self, name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.__ms_dispatch__(Operation(name, original), args, kwargs)

        return call

    def _run_op(self, original: Any) -> Any:
        def run(executor: Any, primitive: Any, name: str, args: Any) -> Any:
            operation = Operation(name, lambda *given: original(executor, primitive, name, given))
            return self.__ms_dispatch__(operation, tuple(args), {})

        return run


def name_of(func: Any, result: Any) -> str:
    """Return an operation's name: that of its autograd node, where the stand-in knows no more than the function's."""
    if isinstance(func, Operation):
        made = next(tensors_in(result), None)
        node = getattr(made, "_grad_node", None)
        if node is not None and not node.is_leaf():
            return str(node.name())
    return str(func.name)


def given_to(func: Any, args: Any, kwargs: Any) -> Any:
    """Return an operation's arguments: kernels get their primitive and a list of them."""
    if not isinstance(func, Operation):
        return args
    if len(args) == 2 and isinstance(args[0], ms.ops.Primitive) and isinstance(args[1], list):
        args = args[1]
    return (*args, *(kwargs or {}).values())


def _camel(name: str) -> str:
    """Return the name of an operation as MindSpore spells it: __radd__ is Add, add_ is InplaceAdd, pyboost_exp Exp."""
    plain = name.removeprefix("pyboost_").removesuffix("_instance")
    ending = plain.strip("_")
    if plain.startswith("__") and ending not in _OPERATORS:
        start, ending = ending[0], ending[1:]
    else:
        start = "i" if plain.endswith("_") and not plain.startswith("__") else ""
    camel = "".join(part[:1].upper() + part[1:] for part in ending.split("_"))
    return ("Inplace" if start == "i" else "") + _SPELT.get(camel, camel)


@functools.cache
def _kernels() -> list[tuple[Any, str]]:
    """Return the functions of kernels, by the modules of the library that call them."""
    found = []
    for title, module in list(sys.modules.items()):
        if not title.startswith("mindspore.") or title == "mindspore._c_expression":
            continue
        for name, value in list(vars(module).items()):
            is_boost = isinstance(value, BuiltinFunctionType) and name.startswith("pyboost_")
            if is_boost or type(value).__name__.endswith("Functional_"):
                found.append((module, name))
    return found


@functools.cache
def _primitives() -> list[tuple[Any, str]]:
    """Return the classes of primitives that call a kernel of their own, and their names."""
    from mindspore.ops.auto_generate import pyboost_inner_prim as inner

    kinds = [value for value in vars(inner).values() if isinstance(value, type) and "__call__" in vars(value)]
    return [(kind, kind.__name__.removeprefix("_Pyboost").rstrip("_").removesuffix("Prim")) for kind in kinds]


@functools.cache
def _methods() -> list[str]:
    """Return the methods of tensors that are operations."""
    found = []
    for base in ms.Tensor.__mro__[1:-1]:
        for name, value in vars(base).items():
            if name in vars(ms.Tensor) or name in _NO_OPERATION:
                continue  # an override of the library's, or of the watch's
            is_plain = not name.startswith("_") and not name.startswith(
                ("is_", "get_", "set_", "new_", "offload", "to_")
            )
            inner = name.strip("_")
            is_operator = name.startswith("__") and (inner in _OPERATORS or inner[1:] in _OPERATORS)
            if type(value).__name__ == "method_descriptor" and (is_operator or is_plain):
                found.append(name)
    return found


Dispatch: Any = PatchedDispatch
try:
    from mindspore.utils import MsDispatchMode

    class _Mode(PatchedDispatch, MsDispatchMode):  # type: ignore[misc]
        """The mode, and what it does not see."""

        is_alone = False

        def __enter__(self) -> Any:
            super().__enter__()
            return MsDispatchMode.__enter__(self)

        def __exit__(self, *error: Any) -> None:
            MsDispatchMode.__exit__(self, *error)
            super().__exit__(*error)

    Dispatch = _Mode
except ImportError:  # before 2.9
    pass
