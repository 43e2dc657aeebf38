"""Records a step: every operation of the forward pass and of hand-written derivatives, as a graph and as a program.

Before the step that is recorded only two things are noted of each operation: whether its output was made of constants
alone, and whether it is non-finite although its inputs are not.
"""

import linecache
import math
import os
import sys
import weakref
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from whynan.adapters.torch.check.lower import (
    CONSTANT,
    LITERAL,
    RANDOM,
    UNINITIALIZED,
    attributes,
    name_of,
    operands,
)
from whynan.adapters.torch.check.program import Call, Program, Ref
from whynan.adapters.torch.frames import custom_backward_frames, is_optimizer_innermost, user_frames
from whynan.adapters.torch.modules import ModuleStack
from whynan.adapters.torch.opfacts import written_arguments
from whynan.check.graph import Asked, Graph, Measured, Node, Place
from whynan.launch.host import is_user_file

_READS = frozenset(("_local_scalar_dense", "is_nonzero", "equal", "item"))
_BORN = frozenset(
    [
        "log",
        "log2",
        "log10",
        "log1p",
        "div",
        "div_",
        "reciprocal",
        "rsqrt",
        "sqrt",
        "exp",
        "expm1",
        "pow",
        "pow_",
        "acos",
        "asin",
        "mean",
        "std",
        "var",
        "std_mean",
        "var_mean",
        "_softmax",
        "_log_softmax",
        "native_batch_norm",
        "native_layer_norm",
        "native_group_norm",
        "addmm",
        "mm",
        "bmm",
        "convolution",
        "sub",
        "mul",
        "sum",
        "nll_loss_forward",
        "nll_loss2d_forward",
        "mse_loss",
        "smooth_l1_loss",
        "l1_loss",
        "_ctc_loss",
        "binary_cross_entropy",
        "atanh",
        "acosh",
        "prod",
        "linalg_vector_norm",
        "cumprod",
        "square",
    ]
)
"""Operations that make what is non-finite of finite operands by themselves; a mask of -inf is made on purpose."""
_MAX_NODES = 60_000
_CLONED_BYTES = 512 * 2**20
_SMALL = 16


class Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Watches all operations while entered. `begin` starts a recording, `end` returns what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.graph: Graph | None = None
        self.program = Program()
        self.modules = ModuleStack()
        self.is_fetching = False
        self.is_muted = False
        self.in_optimizer = 0
        self.n_ops = 0
        self.n_failed = 0
        self.failure: str | None = None
        self.births: dict[tuple[str, int], tuple[str, Place, str, str]] = {}
        self.lineage: dict[int, tuple[Any, str]] = {}
        self.empty: dict[int, tuple[Any, tuple[Place, ...]]] = {}
        self.parameters: dict[int, str] = {}
        self.buffers: dict[int, str] = {}
        self.is_complete = True
        self._by_id: dict[int, tuple[Any, int, int]] = {}
        self._by_key: dict[int, dict[Any, tuple[int, int]]] = {}
        self._alive: dict[int, Any] = {}
        self._last_write: dict[int, int] = {}
        self._bytes = 0

    # Recording -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.graph, self.program = Graph(), Program()
        self._by_id, self._by_key, self._alive, self._last_write = {}, {}, {}, {}
        self._bytes, self.is_complete = 0, True

    def end(self) -> tuple[Graph, Program]:
        assert self.graph is not None
        graph, program = self.graph, self.program
        self.graph = None
        self._by_id, self._by_key, self._alive, self._last_write = {}, {}, {}, {}
        return graph, program

    def node_of(self, tensor: Any) -> int | None:
        """Return the node that a tensor of the recording is of."""
        return self._find(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.is_muted:
            return func(*args, **kwargs)
        name = name_of(func)
        self.n_ops += 1
        backward = torch._C._current_autograd_node()
        recorded = self.graph is not None and len(self.graph.nodes) < _MAX_NODES
        before: Any = None
        if recorded:
            try:
                before = self._before(func, name, args, kwargs, backward)
            except Exception as error:
                self._failed(name, error)
        written = written_arguments(func, func._schema.name.rpartition("::")[2], args, kwargs)
        out = func(*args, **kwargs)
        try:
            with torch.no_grad():
                if before is not None:
                    self._after(func, name, before, args, kwargs, out, written)
                elif backward is None:
                    self._lightly(name, args, kwargs, out, written)
        except Exception as error:
            self._failed(name, error)
        return out

    def _failed(self, name: str, error: Exception) -> None:
        self.n_failed += 1
        self.failure = self.failure or f"{name}: {type(error).__name__}: {error}"

    def _before(self, func: Any, name: str, args: Any, kwargs: Any, backward: Any) -> Any:
        """Return what must be known before the operation runs: where it stands and what its operands are."""
        frame = sys._getframe(2)
        custom = None
        phase = "forward"
        if backward is not None:
            own = custom_backward_frames(frame)
            if not own:
                return None
            stack, phase, custom = own, "backward", backward.name().removesuffix("Backward")
        else:
            if self.in_optimizer and is_optimizer_innermost(frame):
                return None
            stack = user_frames(frame)
        places = tuple(place_of(f) for f in stack[:6])
        assert self.graph is not None
        if name in _READS:
            for tensor in (a for a in args if isinstance(a, torch.Tensor)):
                index = self._find(tensor)
                if index is not None:
                    self.graph.asked.append(Asked(index, len(self.graph.nodes), asking_place(frame)))
            return None
        inputs = []
        for operand in operands(func, args, kwargs, name):
            if isinstance(operand, torch.Tensor):
                inputs.append(self._node_of(operand, places))
            else:
                inputs.append(self.graph.constant(operand).index)
        if name == "pow" and func._overloadname == "Scalar" and len(inputs) == 1:
            inputs.insert(0, self.graph.constant(float(args[0])).index)
        refs = tree_map(lambda leaf: Ref(self._find(leaf)) if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs))  # type: ignore[arg-type]
        path, _ = self.modules.current()
        return tuple(inputs), refs, places, path, phase, custom, torch.is_grad_enabled()

    def _after(self, func: Any, name: str, before: Any, args: Any, kwargs: Any, out: Any, written: list[Any]) -> None:
        inputs, refs, places, path, phase, custom, is_differentiable = before
        assert self.graph is not None
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        if not outputs:
            return
        attrs = attributes(func, args, kwargs, name)
        kind: Any = "op"
        if name in CONSTANT and not self.is_fetching:
            kind = "constant"
        elif name in RANDOM:
            kind = "random"
        elif name in LITERAL:
            kind = "data" if self.is_fetching or outputs[0].numel() > 1 else "constant"
        elif name in UNINITIALIZED:
            kind = "op"
        first = outputs[0]
        node = self.graph.add(
            name,
            inputs=inputs,
            attrs=attrs,
            shape=tuple(first.shape),
            dtype=dtype_of(first),
            kind=kind,
            stack=places,
            module=path,
            phase=phase,
            custom=custom,
            differentiable=is_differentiable and phase != "backward",
            in_place=bool(written),
        )
        if self.is_fetching:
            node.attrs["fetched"] = True
        if phase == "forward" and is_library(sys._getframe(2)):
            node.attrs["library"] = True
        self._measure(node, first)
        numbers = [node.index]
        for place, tensor in enumerate(outputs[1:], 1):
            other = self.graph.add(
                "item",
                inputs=(node.index,),
                attrs={"index": place},
                shape=tuple(tensor.shape),
                dtype=dtype_of(tensor),
                stack=places,
                module=path,
                phase=phase,
                custom=custom,
                differentiable=node.differentiable,
            )
            self._measure(other, tensor)
            numbers.append(other.index)
        self.program.calls[node.index] = Call(func, refs[0], refs[1], tuple(numbers))
        taken = {_pointer(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for number, tensor in zip(numbers, outputs):
            pointer = _pointer(tensor)
            if pointer not in taken and pointer not in {_pointer(t) for t in outputs[: numbers.index(number)]}:
                self._forget(pointer)
            self._bind(tensor, number, by_key=name != "detach")
        for tensor in written:
            self._last_write[_pointer(tensor)] = node.index
            self.empty.pop(_pointer(tensor), None)
            if not any(tensor is o for o in outputs) and name.endswith(("norm", "_legit", "_update")):
                continue  # running statistics
            self._bind(tensor, node.index)

    def _lightly(self, name: str, args: Any, kwargs: Any, out: Any, written: list[Any]) -> None:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        pointers = {_pointer(t) for t in inputs}
        if name in CONSTANT:
            origin = "constant"
        elif name in LITERAL:
            origin = "constant" if not self.is_fetching and all(o.numel() <= _SMALL for o in outputs) else "data"
        elif name in RANDOM or not inputs:
            origin = "data" if name not in UNINITIALIZED else "empty"
        else:
            origins = {self.origin(t) for t in inputs}
            origin = "constant" if origins <= {"constant"} else "data"
        if self.in_optimizer:
            return  # an update makes nothing of what was there before
        for tensor in written:
            self.empty.pop(_pointer(tensor), None)
            if origin == "data":
                self.lineage[_pointer(tensor)] = (_weak(tensor), origin)
        for tensor in outputs:
            pointer = _pointer(tensor)
            if pointer in pointers:
                continue
            self.lineage[pointer] = (_weak(tensor), origin)
            self.empty.pop(pointer, None)
            if name in UNINITIALIZED and tensor.is_floating_point() and tensor.numel():
                self.empty[pointer] = (_weak(tensor), tuple(place_of(f) for f in user_frames(sys._getframe(2))[:6]))
            if name not in UNINITIALIZED:
                self._note_birth(name, tensor, inputs)

    def _note_birth(self, name: str, tensor: Any, inputs: list[Any]) -> None:
        """Note an operation that made NaN or +-inf of finite inputs; a mask of -inf is made on purpose."""
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.numel() == 0 or tensor.is_meta:
            return
        if name not in _BORN:
            return
        if bool(torch.isfinite(tensor).all()) or any(
            t.is_floating_point() and not bool(torch.isfinite(t).all()) for t in inputs if t.layout == torch.strided
        ):
            return
        stack = user_frames(sys._getframe(3))
        if stack:
            place = place_of(stack[0])
            kind = "nan" if bool(torch.isnan(tensor).any()) else "inf"
            self.births.setdefault((place.file, place.line), (name, place, kind, dtype_of(tensor)))

    # Which node a tensor is of ---------------------------------------------------------------------------------------

    def origin(self, tensor: Any) -> str | None:
        """Return what is known of memory made before the recording: "constant", "data", "empty", or None."""
        known = self.lineage.get(_pointer(tensor))
        if known is None or _expired(known[0]):
            return "constant" if tensor.dim() == 0 and not tensor.requires_grad else None
        return known[1]

    def _forget(self, pointer: int) -> None:
        self._by_key.pop(pointer, None)
        self._last_write.pop(pointer, None)
        self._alive.pop(pointer, None)

    def _bind(self, tensor: Any, index: int, by_key: bool = True) -> None:
        pointer = _pointer(tensor)
        stamp = len(self.graph.nodes) if self.graph is not None else 0
        try:
            self._by_id[id(tensor)] = (weakref.ref(tensor), index, stamp)
        except TypeError:
            pass
        if by_key:
            if pointer not in self._alive:
                self._alive[pointer] = _weak(tensor)
            self._by_key.setdefault(pointer, {})[_key(tensor)] = (index, stamp)

    def _find(self, tensor: Any) -> int | None:
        known = self._by_id.get(id(tensor))
        pointer = _pointer(tensor)
        if known is not None and known[0]() is tensor:
            return self._fresh(pointer, known[1], known[2])
        alive = self._alive.get(pointer)
        if alive is not None and _expired(alive):
            self._forget(pointer)
            return None
        found = self._by_key.get(pointer, {}).get(_key(tensor))
        return self._fresh(pointer, *found) if found is not None else None

    def _fresh(self, pointer: int, index: int, stamp: int) -> int:
        """Return a node for memory as it is now: where another view of it was written to since, a new one."""
        writer = self._last_write.get(pointer)
        if writer is None or writer < stamp or writer == index:
            return index
        assert self.graph is not None
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

    def _node_of(self, tensor: Any, places: tuple[Place, ...]) -> int:
        index = self._find(tensor)
        if index is None:
            return self._leaf(tensor, places)
        if self.graph is not None and self.graph.nodes[index].op == "written":
            self._bind(tensor, index)
        return index

    def _leaf(self, tensor: Any, places: tuple[Place, ...]) -> int:
        assert self.graph is not None
        pointer = _pointer(tensor)
        base = self._by_key.get(pointer)
        if base and not _expired(self._alive.get(pointer)):  # a view that was made out of sight
            newest = max(index for index, _ in base.values())
            node = self.graph.add(
                "alias", inputs=(newest,), shape=tuple(tensor.shape), dtype=dtype_of(tensor), stack=places
            )
            self._measure(node, tensor)
            self.program.leaves[node.index] = tensor.detach()
            self._bind(tensor, node.index)
            return node.index
        kind: Any = "data"
        name = self.parameters.get(pointer)
        origin = self.origin(tensor)
        if name is not None or (tensor.requires_grad and tensor.is_leaf):
            kind = "parameter"
        elif pointer in self.buffers:
            name = self.buffers[pointer]
            kind = "state" if "running" in name or "ema" in name.lower() or "num_batches" in name else "constant"
        elif tensor.grad_fn is not None or tensor.requires_grad or torch._C._current_autograd_node() is not None:
            kind = "gradient"
        elif origin == "constant" and not self.is_fetching:
            kind = "constant"
        node = self.graph.add(
            "leaf", kind=kind, shape=tuple(tensor.shape), dtype=dtype_of(tensor), stack=places, name=name
        )
        if tensor.requires_grad:
            node.attrs["requires_grad"] = True
        if pointer in self.empty and not _expired(self.empty[pointer][0]) and kind == "parameter":
            node.attrs["uninitialized"] = True
            node.stack = self.empty[pointer][1] or node.stack
        self._measure(node, tensor)
        n_bytes = tensor.numel() * tensor.element_size()
        value = tensor.detach()
        if self._bytes + n_bytes <= _CLONED_BYTES and kind in ("parameter", "state", "data", "gradient"):
            self._bytes += n_bytes
            value = value.clone()
            node.attrs["mutated"] = kind == "state"
        self.program.leaves[node.index] = value
        self._bind(tensor, node.index)
        self._alive[pointer] = _weak(tensor)
        return node.index

    def _measure(self, node: Node, tensor: Any) -> None:
        node.measured, has_minus_inf = measure(tensor)
        if has_minus_inf:
            node.attrs["has_minus_inf"] = True


def measure(tensor: Any) -> tuple[Measured | None, bool]:
    """Return the range of a tensor's finite elements, and whether it holds -inf."""
    if (
        tensor.numel() == 0
        or tensor.layout != torch.strided
        or tensor.is_meta
        or tensor.is_complex()
        or tensor.is_quantized
    ):
        return None, False
    x = tensor.detach()
    if x.dtype == torch.bool:
        x = x.to(torch.uint8)
    elif x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    lo, hi = (float(v) for v in torch.aminmax(x))
    n_bad, minus = 0, False
    if not (math.isfinite(lo) and math.isfinite(hi)):
        good = torch.isfinite(x)
        n_bad = int(x.numel() - int(good.sum()))
        minus = bool((x == -math.inf).any())
        if n_bad == x.numel():
            return Measured(0.0, 0.0, 0.0, n_bad), minus
        x = x[good]
        lo, hi = (float(v) for v in torch.aminmax(x))
    least = lo if lo > 0 else -hi if hi < 0 else float(x.abs().min())
    return Measured(lo, hi, least, n_bad), minus


def place_of(frame: Any) -> Place:
    """Return a frame's line as a place, with its source text."""
    return Place(frame.file, frame.line, frame.function, linecache.getline(frame.file, frame.line).strip())


def asking_place(frame: Any) -> Place | None:
    """Return the line that reads a number: the user's or a library's, and not the framework's own."""
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file) or ("site-packages" in file and _TORCH not in file):
            text = linecache.getline(file, frame.f_lineno).strip()
            return Place(file, frame.f_lineno, frame.f_code.co_name, text)
        frame = frame.f_back
    return None


def is_library(frame: Any) -> bool:
    """Whether an operation is the doing of an installed library on top of the framework, and not of the user's code."""
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file):
            return False
        if "site-packages" in file and _TORCH not in file and _KERAS not in file:
            return True
        frame = frame.f_back
    return False


_TORCH = f"site-packages{os.sep}torch{os.sep}"
_KERAS = f"site-packages{os.sep}keras{os.sep}"
"""Its operations are the framework's own under another name."""


def dtype_of(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _pointer(tensor: Any) -> int:
    try:
        return int(tensor.untyped_storage().data_ptr()) or id(tensor)
    except Exception:
        return id(tensor)


def _key(tensor: Any) -> tuple[Any, ...]:
    return (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _weak(tensor: Any) -> Any:
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except Exception:
        return None


def _expired(reference: Any) -> bool:
    return reference is not None and reference.expired()
