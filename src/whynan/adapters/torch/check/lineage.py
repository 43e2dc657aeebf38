"""From an aten call to a node of the framework-free graph; which node a tensor is of, and what is known of older ones.

Of each operation two things are noted: whether its output was made of constants alone, and whether it is non-finite
although its inputs are not. Of memory from `empty`, whether something was written to it.
"""

import sys
import weakref
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from whynan.adapters.torch.check.facts import dtype_of, is_expired, is_finite, key_of, place_of, pointer_of, weak
from whynan.adapters.torch.check.program import Program
from whynan.adapters.torch.frames import user_frames
from whynan.check.graph import Graph, Place

BINARY = frozenset(
    [
        "add",
        "add_",
        "sub",
        "sub_",
        "rsub",
        "mul",
        "mul_",
        "div",
        "div_",
        "pow",
        "pow_",
        "maximum",
        "minimum",
        "fmod",
        "remainder",
        "floor_divide",
        "gt",
        "lt",
        "ge",
        "le",
        "eq",
        "ne",
        "logical_and",
        "logical_or",
        "bitwise_and",
        "bitwise_or",
        "where",
        "masked_fill",
        "masked_fill_",
        "addcmul",
        "addcdiv",
        "atan2",
        "xlogy",
        "lerp",
        "fill",
        "fill_",
        "float_power",
        "hypot",
        "logaddexp",
    ]
)
"""Operations whose plain numbers are operands: they become constant nodes."""
_NAMES = {
    "__and__": "bitwise_and",
    "__or__": "bitwise_or",
    "true_divide": "div",
    "divide": "div",
    "log_softmax": "_log_softmax",
    "softmax": "_softmax",
    "gt_": "gt",
    "lt_": "lt",
    "_safe_softmax": "_safe_softmax",
    "native_group_norm": "native_group_norm",
}
_OVERLOADS = {
    ("max", "dim"): "max.dim",
    ("min", "dim"): "min.dim",
    ("max", "other"): "maximum",
    ("min", "other"): "minimum",
    ("median", "dim"): "median.dim",
}
CONSTANT = frozenset(
    [
        "zeros",
        "ones",
        "full",
        "zeros_like",
        "ones_like",
        "full_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "arange",
        "linspace",
        "eye",
        "scalar_tensor",
        "zero_",
        "tril_indices",
        "triu_indices",
        "hann_window",
        "logspace",
    ]
)
RANDOM = frozenset(
    [
        "rand",
        "randn",
        "rand_like",
        "randn_like",
        "normal",
        "normal_",
        "uniform_",
        "bernoulli",
        "bernoulli_",
        "randint",
        "randperm",
        "multinomial",
        "random_",
        "native_dropout",
        "normal_functional",
        "exponential_",
        "geometric_",
        "log_normal_",
        "cauchy_",
    ]
)
UNINITIALIZED = frozenset(["empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"])
LITERAL = frozenset(("lift_fresh", "lift_fresh_copy", "lift"))


def name_of(func: Any) -> str:
    name = func._schema.name.rpartition("::")[2]
    return _OVERLOADS.get((name, func._overloadname)) or _NAMES.get(name, name)


def attributes(func: Any, args: Any, kwargs: Any, name: str) -> dict[str, Any]:
    """Return a call's arguments that are no tensors, by the names in its schema, defaults included."""
    found: dict[str, Any] = {}
    place = 0
    for number, argument in enumerate(func._schema.arguments):
        value: Any
        if number < len(args):
            value = args[number]
        elif argument.name in kwargs:
            value = kwargs[argument.name]
        elif argument.has_default_value():
            value = argument.default_value
        else:
            continue
        if isinstance(value, torch.Tensor):
            if argument.name in ("weight", "bias", "min", "max", "mask", "attn_mask"):
                found[f"{argument.name}_input"] = place
            place += 1
        elif isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
            place += sum(isinstance(v, torch.Tensor) for v in value)
        elif isinstance(value, (int, float, bool, str, list, tuple)):
            if (
                name in BINARY
                and isinstance(value, (int, float))
                and argument.name in ("self", "other", "exponent", "value")
            ) and not (name.startswith("addc") and argument.name == "value"):
                place += 1
                continue
            found[argument.name] = value
    if name in ("atan2",):
        found["guarded"] = True  # its derivative is masked where both operands are 0
    if name == "pow" and func._overloadname == "Scalar":
        found.pop("self", None)
    return found


def operands(func: Any, args: Any, kwargs: Any, name: str) -> list[Any]:
    """Return a call's operands in order: tensors, and the plain numbers of operations that take either."""
    found: list[Any] = []
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(v for v in value if isinstance(v, torch.Tensor))
        elif (
            name in BINARY
            and isinstance(value, (int, float))
            and argument.name in ("self", "other", "exponent", "value")
        ) and not (name.startswith("addc") and argument.name == "value"):
            found.append(value)
    return found


class Binding:
    """Tensors of one recording."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self.graph, self.program = graph, program
        self._by_id: dict[int, tuple[Any, int, int]] = {}
        self._by_key: dict[int, dict[Any, tuple[int, int]]] = {}
        self._alive: dict[int, Any] = {}
        self._last_write: dict[int, int] = {}

    def forget(self, pointer: int) -> None:
        self._by_key.pop(pointer, None)
        self._last_write.pop(pointer, None)
        self._alive.pop(pointer, None)

    def bind(self, tensor: Any, index: int, by_key: bool = True) -> None:
        pointer = pointer_of(tensor)
        stamp = len(self.graph.nodes)
        try:
            self._by_id[id(tensor)] = (weakref.ref(tensor), index, stamp)
        except TypeError:
            pass
        if by_key:
            if pointer not in self._alive:
                self._alive[pointer] = weak(tensor)
            self._by_key.setdefault(pointer, {})[key_of(tensor)] = (index, stamp)

    def find(self, tensor: Any) -> int | None:
        known = self._by_id.get(id(tensor))
        pointer = pointer_of(tensor)
        if known is not None and known[0]() is tensor:
            return self._fresh(pointer, known[1], known[2])
        alive = self._alive.get(pointer)
        if alive is not None and is_expired(alive):
            self.forget(pointer)
            return None
        found = self._by_key.get(pointer, {}).get(key_of(tensor))
        return self._fresh(pointer, *found) if found is not None else None

    def _fresh(self, pointer: int, index: int, stamp: int) -> int:
        """Return a node for memory as it is now: where another view of it was written to since, a new one."""
        writer = self._last_write.get(pointer)
        if writer is None or writer < stamp or writer == index:
            return index
        old = self.graph.nodes[index]
        node = self.graph.add(
            "written",
            inputs=(index, writer),
            shape=old.shape,
            dtype=old.dtype,
            stack=old.stack,
            module=old.module,
            differentiable=old.differentiable,
            phase=old.phase,
        )
        source = self.graph.nodes[writer]
        if source.op in ("fill_", "zero_", "masked_fill_") and len(source.inputs) > 1:
            node.inputs = (index, source.inputs[-1], writer)
        elif source.op == "copy_" and len(source.inputs) > 1:
            node.inputs = (index, source.inputs[1], writer)
        self.program.same_as[node.index] = index
        return node.index

    def renew(self, tensor: Any, index: int) -> None:
        """Bind memory as it is now to the node that stands for what was written."""
        if self.graph.nodes[index].op == "written":
            self.bind(tensor, index)

    def base(self, tensor: Any) -> int | None:
        """Return the newest node of the same memory, seen as another view."""
        pointer = pointer_of(tensor)
        known = self._by_key.get(pointer)
        if not known or is_expired(self._alive.get(pointer)):
            return None
        return max(index for index, _ in known.values())

    def outputs(self, outputs: list[Any], numbers: list[int], operands: list[Any], by_key: bool) -> None:
        """Bind what an operation gave; memory that none of its operands lies in is new, whatever lay there before."""
        taken = {pointer_of(t) for t in operands}
        seen: set[int] = set()
        for number, tensor in zip(numbers, outputs):
            pointer = pointer_of(tensor)
            if pointer not in taken and pointer not in seen:
                self.forget(pointer)
            seen.add(pointer)
            self.bind(tensor, number, by_key)

    def wrote(self, tensor: Any, index: int) -> None:
        self._last_write[pointer_of(tensor)] = index

    def leaf(self, tensor: Any, index: int) -> None:
        self.bind(tensor, index)
        self._alive[pointer_of(tensor)] = weak(tensor)


_BORN = frozenset([
    "log", "log2", "log10", "log1p", "div", "div_", "reciprocal", "rsqrt", "sqrt", "exp", "expm1", "pow", "pow_",
    "acos", "asin", "mean", "std", "var", "std_mean", "var_mean", "_softmax", "_log_softmax", "native_batch_norm",
    "native_layer_norm", "native_group_norm", "addmm", "mm", "bmm", "convolution", "sub", "mul", "sum",
    "nll_loss_forward", "nll_loss2d_forward", "mse_loss", "smooth_l1_loss", "l1_loss", "_ctc_loss",
    "binary_cross_entropy", "atanh", "acosh", "prod", "linalg_vector_norm", "cumprod", "square",
])  # fmt: skip
"""Operations that make what is non-finite of finite operands by themselves; a mask of -inf is made on purpose."""
_SMALL = 16
"""A literal of so few numbers is a constant of the program; a larger one is data."""


class Lineage:
    """Memory by address: what it was made of."""

    def __init__(self) -> None:
        self.births: dict[tuple[str, int], tuple[str, Place, str, str]] = {}
        self.empty: dict[int, tuple[Any, tuple[Place, ...]]] = {}
        self._made: dict[int, tuple[Any, str]] = {}

    def written(self, tensor: Any) -> None:
        self.empty.pop(pointer_of(tensor), None)

    def empty_at(self, tensor: Any) -> tuple[Place, ...] | None:
        """Return where the memory of a tensor was made, if nothing was written to it since."""
        known = self.empty.get(pointer_of(tensor))
        return known[1] if known is not None and not is_expired(known[0]) else None

    def origin(self, tensor: Any) -> str | None:
        """Return what is known of memory made before the recording: "constant", "data", "empty", or None."""
        known = self._made.get(pointer_of(tensor))
        if known is None or is_expired(known[0]):
            return "constant" if tensor.dim() == 0 and not tensor.requires_grad else None
        return known[1]

    def note(self, name: str, args: Any, kwargs: Any, out: Any, written: list[Any], is_fetching: bool) -> None:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        pointers = {pointer_of(t) for t in inputs}
        if name in CONSTANT:
            origin = "constant"
        elif name in LITERAL:
            origin = "constant" if not is_fetching and all(o.numel() <= _SMALL for o in outputs) else "data"
        elif name in RANDOM or not inputs:
            origin = "data" if name not in UNINITIALIZED else "empty"
        else:
            origins = {self.origin(t) for t in inputs}
            origin = "constant" if origins <= {"constant"} else "data"
        for tensor in written:
            self.empty.pop(pointer_of(tensor), None)
            if origin == "data":
                self._made[pointer_of(tensor)] = (weak(tensor), origin)
        for tensor in outputs:
            pointer = pointer_of(tensor)
            if pointer in pointers:
                continue
            self._made[pointer] = (weak(tensor), origin)
            self.empty.pop(pointer, None)
            if name in UNINITIALIZED and tensor.is_floating_point() and tensor.numel():
                self.empty[pointer] = (weak(tensor), tuple(place_of(f) for f in user_frames(sys._getframe(2))[:6]))
            if name not in UNINITIALIZED:
                self._note_birth(name, tensor, inputs)

    def _note_birth(self, name: str, tensor: Any, inputs: list[Any]) -> None:
        """Note an operation that made NaN or +-inf of finite inputs; a mask of -inf is made on purpose."""
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.numel() == 0 or tensor.is_meta:
            return
        if name not in _BORN:
            return
        if is_finite(tensor) or any(
            t.is_floating_point() and t.numel() and not is_finite(t) for t in inputs if t.layout == torch.strided
        ):
            return
        stack = user_frames(sys._getframe(3))
        if stack:
            place = place_of(stack[0])
            kind = "nan" if bool(torch.isnan(tensor).any()) else "inf"
            self.births.setdefault((place.file, place.line), (name, place, kind, dtype_of(tensor)))
