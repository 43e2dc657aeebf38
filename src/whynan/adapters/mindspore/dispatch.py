"""MindSpore's tensors as NumPy arrays, and where its versions differ: how functions are differentiated, how operations
and gradients are seen.

Before 2.9 there is no mode that sees operations: what calls kernels from Python is replaced while a step is replayed.
The mode does not see all of them (not `ops.concat`, `mint.cat`): there too.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np
from mindspore.ops.composite import base

from whynan.adapters.common.arrays import all_finite
from whynan.adapters.common.arrays import map_structure as map_leaves
from whynan.adapters.common.patches import Patches
from whynan.adapters.common.positions import plain_name
from whynan.launch.host import tell

_NO_NUMPY = {ms.bfloat16}
_PLAIN = {
    "muls": "mul", "divs": "div", "adds": "add", "subs": "sub", "pow_tensor_scalar": "pow", "pow_scalar_tensor": "pow",
    "reduce_std": "std", "a_cos": "acos", "a_sin": "asin", "atan2": "atan2", "matmul_ext": "matmul", "dense": "matmul",
    "bce_with_logits_loss": "binary_cross_entropy_with_logits", "conv2d_ext": "conv2d", "conv2_d": "conv2d",
    "re_lu": "relu", "sum_ext": "sum", "mean_ext": "mean", "max_dim": "max", "min_dim": "min", "prod_ext": "prod",
    "select": "where", "square_sum_all": "sum", "arg_max_with_value": "max", "arg_min_with_value": "min",
    "linalg_vector_norm": "norm", "lp_norm": "norm", "div_mod": "div", "clamp_tensor": "clip", "clamp_scalar": "clip",
    "acosh_ext": "acosh", "acos_ext": "acos", "asin_ext": "asin", "var_mean": "var", "reciprocal_ext": "reciprocal",
}  # fmt: skip


def is_tensor(value: Any) -> bool:
    return isinstance(value, ms.Tensor)


def is_floating(tensor: Any) -> bool:
    return bool(tensor.dtype in (ms.float16, ms.float32, ms.float64, ms.bfloat16))


def array_of(tensor: Any) -> Any:
    """Return a tensor's numbers as an array, which may share its memory; bfloat16 as float32."""
    if tensor.dtype in _NO_NUMPY:
        tensor = tensor.astype(ms.float32)
    array = tensor.asnumpy()
    return array if isinstance(array, np.ndarray) else np.asarray(array)


def tensor_like(array: Any, tensor: Any) -> Any:
    # A copy: a tensor may share the array's memory, and kernels write into parameters.
    made = ms.Tensor(np.array(array, order="C", copy=True) if np.ndim(array) else array)
    return made if made.dtype == tensor.dtype else made.astype(tensor.dtype)


def write(parameter: Any, array: Any) -> None:
    """Put numbers into a parameter's own memory: a compiled step holds on to that."""
    ms.ops.assign(parameter, tensor_like(array, parameter))


def tensors_in(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the tensors in a nested value, in order."""
    if isinstance(value, ms.Tensor):
        yield value
    elif depth < 4 and isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item, depth + 1)
    elif depth < 4 and isinstance(value, dict):
        yield from tensors_in(list(value.values()), depth + 1)


def map_structure(value: Any, change: Any) -> Any:
    """Return a nested value with each tensor and array replaced by what `change` makes of it."""
    return map_leaves(value, lambda leaf: change(leaf) if isinstance(leaf, (ms.Tensor, np.ndarray)) else leaf)


def op_name(name: str) -> str:
    """Return the plain name of a primitive: SubExt, Sub, Subs and InplaceSub are all sub."""
    short = name.removeprefix("Inplace")
    snake = plain_name(short)
    if snake in _PLAIN:
        return _PLAIN[snake]
    for ending in ("Ext", "View", "V2", "V3"):
        short = short.removesuffix(ending)
    plain = plain_name(short)
    return _PLAIN.get(plain, plain)


try:
    from mindspore.graph import api as api
except ImportError:  # before 2.9
    from mindspore.common import api as api

if TYPE_CHECKING:
    from whynan.adapters.mindspore.trace import Tracer

_Make = Callable[[Any], Any]


def differentiates(patches: Patches, forward: _Make, backward: _Make) -> None:
    """Replace what runs a function to be differentiated, and what differentiates it."""
    if hasattr(base, "_pynative_forward_run"):
        patches.replace(base, "_pynative_forward_run", forward)
        patches.replace(base, "_pynative_func_grad_backward", backward)
        return
    ended: list[Any] = [None, ()]  # what was run last, and its result: GradOperation drops it

    def ending(original: Any) -> Any:
        def end_graph(executor: Any, run: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
            ended[:] = run, output
            return original(executor, run, output, *args, **kwargs)

        return end_graph

    def running(original: Any) -> Any:
        def run(grad: Any, fn: Any, inner: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
            def plain(fn: Any, sens_param: bool, *args: Any, **kwargs: Any) -> Any:
                found = original(grad, fn, inner, weights, *args, **kwargs)
                arguments, out = found if gives_result else (found, ())
                # A cell that has just been called is not run again.
                is_run = isinstance(out, tuple) and not out and ended[0] is fn
                return arguments, ended[1] if is_run else out

            gives_result = isinstance(grad, base._Grad)
            arguments, out = forward(plain)(fn, grad.sens_param, *args, **kwargs)
            ended[:] = None, ()
            return (arguments, out) if gives_result else arguments

        return run

    def differentiating(original: Any) -> Any:
        def grad(executor: Any, fn: Any, operation: Any, weights: Any, *args: Any) -> Any:
            return backward(lambda *given: original(executor, *given))(fn, operation, weights, *args)

        return grad

    for kind in (base.GradOperation, base._Grad):
        patches.replace(kind, "_pynative_forward_run", running)
    patches.replace(api._PyNativeExecutor, "end_graph", ending)
    for name in ("grad", "grad_aux"):
        patches.replace(api._PyNativeExecutor, name, differentiating)


_OPERATORS = {
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "neg", "abs", "getitem", "setitem",
    "and", "or", "xor",
}  # fmt: skip
_SPELT = {"Truediv": "Div", "Mm": "MatMul", "Matmul": "MatMul", "Setitem": "InplaceCopy"}


class Operation(functools.partial):  # type: ignore[type-arg]
    name = ""


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

    def _told(self, name: str, call: Any, args: Any, kwargs: Any) -> Any:
        operation = Operation(call)
        operation.name = name
        return self.__ms_dispatch__(operation, args, kwargs)  # type: ignore[attr-defined]

    def _seen(self, name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._told(name, original, args, kwargs)

        return call

    def _run_op(self, original: Any) -> Any:
        def run(executor: Any, primitive: Any, name: str, args: Any) -> Any:
            return self._told(name, lambda *given: original(executor, primitive, name, given), tuple(args), {})

        return run


def name_of(func: Any, result: Any) -> str:
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
    """Return a name as MindSpore spells it: __radd__ is Add, add_ is InplaceAdd, pyboost_exp Exp."""
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
    from mindspore.ops.auto_generate import pyboost_inner_prim as inner

    kinds = [value for value in vars(inner).values() if isinstance(value, type) and "__call__" in vars(value)]
    return [(kind, kind.__name__.removeprefix("_Pyboost").rstrip("_").removesuffix("Prim")) for kind in kinds]


@functools.cache
def _methods() -> list[str]:
    found = []
    for kind in ms.Tensor.__mro__[1:-1]:
        for name, value in vars(kind).items():
            if name in vars(ms.Tensor):
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


has_nodes = hasattr(ms.Tensor, "_grad_node")
_MOVES = frozenset(
    """add sub neg sum mean cast identity copy reshape flatten transpose squeeze expand_dims broadcast_to split stack
    concat getitem gather""".split()  # noqa: SIM905
)
"""Operations whose derivative makes nothing non-finite of finite numbers."""


class Flows:
    """The gradient of each tensor, where autograd nodes take no hooks (2.7). `ends` are the bad ones of parameters.

    Where one of several users of a tensor may have made its gradient non-finite, the origin is not known.
    """

    def __init__(self, tracer: "Tracer") -> None:
        self.tracer = tracer
        self.ends: list[int] = []
        self._arrived: dict[int, int] = {}
        self._arrays: dict[int, Any] = {}

    def follow(self, value: int, tensor: Any) -> None:
        if not is_floating(tensor):
            return

        def hook(gradient: Any) -> None:
            depth, self.tracer._depth = self.tracer._depth, 1
            try:
                self._seen(value, array_of(gradient))
            except Exception as error:
                tell("tracing a gradient failed", error)
            finally:
                self.tracer._depth = depth

        tensor.register_hook(hook)

    def end(self, name: str, array: Any) -> None:
        """See the gradient of a parameter, as an optimizer gets it."""
        values = self.tracer.graph.values
        value = next((v for v, known in values.items() if known.name == name), self.tracer.fresh())
        made = self._seen(value, array)
        if not all_finite(array):
            self.ends.append(made)

    def _seen(self, value: int, array: Any) -> int:
        graph = self.tracer.graph
        made = self.tracer.fresh()
        graph.gradients.add(made)
        self._arrived[value] = made
        self._arrays[made] = array
        users = [n for n in graph.nodes if n.phase == "forward" and value in n.inputs
                 and any(output in self._arrived for output in n.outputs)]  # fmt: skip
        sent = [self._arrived[output] for user in users for output in user.outputs if output in self._arrived]
        is_born = not all_finite(array) and not any(v in graph.bad for v in sent)
        bad = [user for user in users if any(self._arrived.get(v) in graph.bad for v in user.outputs)]
        makers = [user for user in users if user.name not in _MOVES] if is_born else bad or users
        if not makers or (is_born and len(makers) > 1):
            if is_born:
                graph.bad[made] = array
            return made
        forward = makers[0]
        known = [v for v in (*forward.inputs, *forward.outputs) if v in self.tracer.tensors]
        node = replace(
            forward,
            index=len(graph.nodes),
            framework_op=f"gradient of {forward.framework_op}",
            phase="backward",
            inputs=(*sent, *known),
            outputs=(made,),
            forward=forward.index,
        )
        arrays = [*(self._arrays[v] for v in sent), *(self.tracer.array(v, self.tracer.tensors[v]) for v in known)]
        graph.add(node, lambda: arrays, [array])
        return made
