"""Records a step: every operation of the forward pass and of hand-written derivatives, as a graph and as a program.

Before the step that is recorded an operation is only noted (`lineage`).
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from whynan.adapters.torch.check.facts import asking_place, dtype_of, is_library, measure, place_of, pointer_of
from whynan.adapters.torch.check.lineage import (
    CONSTANT,
    LITERAL,
    RANDOM,
    Binding,
    Lineage,
    attributes,
    name_of,
    operands,
)
from whynan.adapters.torch.check.program import Call, Program, Ref
from whynan.adapters.torch.frames import ModuleStack, custom_backward_frames, is_optimizer_innermost, user_frames
from whynan.adapters.torch.opfacts import written_arguments
from whynan.check.graph import Asked, Graph, Node, Place

_READS = frozenset(("_local_scalar_dense", "is_nonzero", "equal", "item"))
_MAX_NODES = 60_000
_CLONED_BYTES = 512 * 2**20


class Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Watches all operations while entered. `begin` starts a recording, `end` returns what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.graph: Graph | None = None
        self.program = Program()
        self.lineage = Lineage()
        self.modules = ModuleStack()
        self.is_fetching = False
        self.is_muted = False
        self.in_optimizer = 0
        self.n_ops = 0
        self.n_failed = 0
        self.failure: str | None = None
        self.parameters: dict[int, str] = {}
        self.buffers: dict[int, str] = {}
        self.gradients: Callable[[], set[int]] = set
        """Where the gradients of the parameters lie in memory."""
        self._binding = Binding(Graph(), self.program)
        self._bytes = 0

    def begin(self) -> None:
        self.graph, self.program = Graph(), Program()
        self._binding = Binding(self.graph, self.program)
        self._bytes = 0

    def end(self) -> tuple[Graph, Program]:
        assert self.graph is not None
        graph, program = self.graph, self.program
        self.graph = None
        self._binding = Binding(Graph(), Program())
        return graph, program

    def node_of(self, tensor: Any) -> int | None:
        return self._binding.find(tensor)

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
                elif backward is None and not self.in_optimizer:  # an update makes nothing of what was there before
                    self.lineage.note(name, args, kwargs, out, written, self.is_fetching)
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
                index = self._binding.find(tensor)
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
        refs = tree_map(
            lambda leaf: Ref(self._binding.find(leaf)) if isinstance(leaf, torch.Tensor) else leaf,  # type: ignore[arg-type]
            (args, kwargs),
        )
        path, _ = self.modules.current()
        return tuple(inputs), refs, places, path, phase, custom, torch.is_grad_enabled()

    def _after(self, func: Any, name: str, before: Any, args: Any, kwargs: Any, out: Any, written: list[Any]) -> None:
        inputs, refs, places, path, phase, custom, is_differentiable = before
        assert self.graph is not None
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        if not outputs:
            return
        node = self._add(
            name,
            outputs[0],
            inputs=inputs,
            attrs=attributes(func, args, kwargs, name),
            kind=self._kind(name, outputs[0]),
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
        numbers = [node.index]
        for place, tensor in enumerate(outputs[1:], 1):
            other = self._add(
                "item",
                tensor,
                inputs=(node.index,),
                attrs={"index": place},
                stack=places,
                module=path,
                phase=phase,
                custom=custom,
                differentiable=node.differentiable,
            )
            numbers.append(other.index)
        self.program.calls[node.index] = Call(func, refs[0], refs[1], tuple(numbers))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        self._binding.outputs(outputs, numbers, given, by_key=name != "detach")
        for tensor in written:
            self._binding.wrote(tensor, node.index)
            self.lineage.written(tensor)
            if not any(tensor is o for o in outputs) and name.endswith(("norm", "_legit", "_update")):
                continue  # running statistics
            self._binding.bind(tensor, node.index)

    def _kind(self, name: str, output: Any) -> str:
        if name in CONSTANT and not self.is_fetching:
            return "constant"
        if name in RANDOM:
            return "random"
        if name in LITERAL:
            return "data" if self.is_fetching or output.numel() > 1 else "constant"
        return "op"

    def _add(self, op: str, tensor: Any, **about: Any) -> Node:
        assert self.graph is not None
        node = self.graph.add(op, shape=tuple(tensor.shape), dtype=dtype_of(tensor), **about)
        node.measured, has_minus_inf = measure(tensor)
        if has_minus_inf:
            node.attrs["has_minus_inf"] = True
        return node

    # What an operation takes -----------------------------------------------------------------------------------------

    def _node_of(self, tensor: Any, places: tuple[Place, ...]) -> int:
        index = self._binding.find(tensor)
        if index is None:
            return self._leaf(tensor, places)
        self._binding.renew(tensor, index)
        return index

    def _leaf(self, tensor: Any, places: tuple[Place, ...]) -> int:
        base = self._binding.base(tensor)
        if base is not None:  # a view that was made out of sight
            node = self._add("alias", tensor, inputs=(base,), stack=places)
            self.program.leaves[node.index] = tensor.detach()
            self._binding.bind(tensor, node.index)
            return node.index
        kind, name = self._leaf_kind(tensor)
        node = self._add("leaf", tensor, kind=kind, stack=places, name=name)
        if tensor.requires_grad:
            node.attrs["requires_grad"] = True
        elif kind == "data" and pointer_of(tensor) in self.gradients():
            node.attrs["is_gradient"] = True
        born = self.lineage.empty_at(tensor)
        if born is not None and kind == "parameter":
            node.attrs["uninitialized"] = True
            node.stack = born or node.stack
        n_bytes = tensor.numel() * tensor.element_size()
        value = tensor.detach()
        if self._bytes + n_bytes <= _CLONED_BYTES and kind in ("parameter", "state", "data", "gradient"):
            self._bytes += n_bytes
            value = value.clone()
            node.attrs["mutated"] = kind == "state"
        self.program.leaves[node.index] = value
        self._binding.leaf(tensor, node.index)
        return node.index

    def _leaf_kind(self, tensor: Any) -> tuple[str, str | None]:
        pointer = pointer_of(tensor)
        name = self.parameters.get(pointer)
        if name is not None or (tensor.requires_grad and tensor.is_leaf):
            return "parameter", name
        if pointer in self.buffers:
            name = self.buffers[pointer]
            is_state = "running" in name or "ema" in name.lower() or "num_batches" in name
            return "state" if is_state else "constant", name
        if tensor.grad_fn is not None or tensor.requires_grad or torch._C._current_autograd_node() is not None:
            return "gradient", None
        if self.lineage.origin(tensor) == "constant" and not self.is_fetching:
            return "constant", None
        return "data", None
