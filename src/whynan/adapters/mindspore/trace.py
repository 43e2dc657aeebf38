"""Sees every operation of a step that runs in PyNative mode, its forward and its backward pass.

Forward operations come through a dispatch mode. A backward pass is made of nodes that run natively: a hook on each node
of the loss's graph sees what went in and what came out, and a node is known by the forward operation it belongs to.
"""

import sys
from types import FrameType
from typing import Any

from mindspore import nn
from mindspore.utils import MsDispatchMode

from whynan.adapters.common.arrays import summarize
from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.patches import Patches
from whynan.adapters.common.positions import called_name, user_frames
from whynan.adapters.mindspore.arrays import array_of, op_name, tensors_in
from whynan.adapters.mindspore.backward import BackwardPass
from whynan.adapters.mindspore.places import Places, names_of_cells
from whynan.launch.host import tell
from whynan.records import Phase, SourceLine
from whynan.records.tensor import Role, TensorSummary

_NO_SEQUENCE = 2**63
_QUIET = {"Contiguous", "Depend", "typeof", "sequence_len", "make_range"}
LOSSES = {
    "BinaryCrossEntropy": "binary_crossentropy", "NLLLoss": "nll_loss", "KLDivLoss": "kl_div",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "SparseSoftmaxCrossEntropyWithLogits": "cross_entropy", "SoftmaxCrossEntropyWithLogits": "cross_entropy",
}  # fmt: skip
"""Kernels of losses, by the name that causes know them by."""
_WRITES = {"Assign": None, "AssignAdd": "add", "AssignSub": "sub", "InplaceCopy": None}


class Tracer(MsDispatchMode):  # type: ignore[misc]
    """Notes operations in a `Graph` while it is entered."""

    def __init__(self, places: Places, roots: list[Any]) -> None:
        self.graph = Graph()
        self.places = places
        self.names = names_of_cells(roots)
        self.phase: Phase = "forward"
        self.entry: FrameType | None = None
        """The frame that runs the step: the user's frames outside of it say nothing of an operation."""
        self.tensors: dict[int, Any] = {}
        """A tensor for each value. None of them may be freed while the trace runs: memory tells values apart."""
        self.sequences: dict[int, int] = {}
        """The value that the autograd node of that sequence number made."""
        self.backward: BackwardPass | None = None
        self.dtypes: list[str] = []
        """The dtypes that operations made, each once."""
        self.loss_call: tuple[str, tuple[TensorSummary, ...]] | None = None
        self._by_memory: dict[int, tuple[int, int]] = {}
        self._cells: list[tuple[str | None, str, SourceLine | None]] = []
        self._patches = Patches()
        self._fresh = 0
        self._depth = 0
        self._alive: list[Any] = []

    # Entering ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Tracer":
        self._patches.replace(nn.Cell, "__call__", self._cell_call)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.undo()
        self.entry = None

    def _cell_call(self, original: Any) -> Any:
        tracer = self

        def __call__(cell: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            path = tracer.names.get(id(cell)) or None
            tracer._cells.append((path, type(cell).__name__, tracer.places.made(cell)))
            try:
                return original(cell, *args, **kwargs)
            finally:
                tracer._cells.pop()

        return __call__

    def know(self, tensor: Any, role: Role, name: str) -> None:
        """Say what a tensor is that no operation of the step makes."""
        value = self._new(tensor)
        # A copy: kernels write running statistics into what they were given.
        self.graph.give(value, role, name, array_of(tensor).copy())

    def value_of(self, tensor: Any) -> int:
        """Return the number of the value that a tensor holds."""
        address = int(tensor.data_ptr()) if tensor.size else 0
        sequence = _sequence(tensor)
        known = self._by_memory.get(address)
        if known is not None and address:
            if sequence is not None:
                self.sequences.setdefault(sequence, known[0])
            return known[0]
        value = self._by_graph(tensor) if sequence is not None else self._by_range(address)
        if value is not None:
            return value
        return self._new(tensor)

    def written(self, parameter: Any) -> int | None:
        """Return the value that an operation has written into a parameter; None where none was seen to.

        A kernel (batch norm's) may write into what it was given: then it is the bad value that it put out.
        """
        known = self._by_memory.get(int(parameter.data_ptr()))
        if known is None or known[0] in self.graph.producer:
            return known[0] if known is not None else None
        users = [node for node in self.graph.nodes if known[0] in node.inputs and node.phase == "forward"]
        return next((value for node in users for value in node.outputs if value in self.graph.bad), None)

    def bad_gradients(self) -> list[int]:
        """Return the values that are not finite and end at a parameter."""
        if self.backward is not None and self.backward.ends:
            return self.backward.ends
        return [value for value in self.graph.bad if value in self.graph.gradients][-8:]

    def follow_back(self, loss: Any) -> None:
        """The forward pass has come to what is differentiated: see the backward pass from here."""
        try:
            self.value_of(loss)
            self.backward = BackwardPass(self, loss)
        except Exception as error:
            tell("following the backward pass failed", error)

    # Values -----------------------------------------------------------------------------------------------------------

    def _new(self, tensor: Any) -> int:
        self._fresh += 1
        value = self._fresh
        self.tensors[value] = tensor
        self._alive.append(tensor)
        if tensor.size:
            self._by_memory[int(tensor.data_ptr())] = (value, int(tensor.nbytes))
        return value

    def fresh(self) -> int:
        """Return a number for a value that is known by no memory."""
        self._fresh += 1
        return self._fresh

    def _by_graph(self, tensor: Any) -> int | None:
        """A view that no operation was seen to make: what it was made from, by its autograd node."""
        todo, seen = [tensor._grad_node], 0
        while todo and seen < 20:
            seen += 1
            node = todo.pop(0)
            number = int(node._sequence_nr())
            if number in self.sequences:
                return self.sequences[number]
            todo += [after for after, _ in node.next_functions if after is not None]
        return None

    def _by_range(self, address: int) -> int | None:
        """A view of a larger tensor: the one whose memory it lies in."""
        if not address:
            return None
        return next((value for start, (value, size) in self._by_memory.items() if start < address < start + size), None)

    def array(self, value: int, tensor: Any) -> Any:
        """Return the numbers of a value: those it had before the step where the step was given it."""
        known = self.graph.values.get(value)
        return known.array if known is not None and known.array is not None else array_of(tensor)

    # Operations -------------------------------------------------------------------------------------------------------

    def __ms_dispatch__(self, func: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._depth += 1
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._depth -= 1
        if self._depth == 0 and func.name not in _QUIET and self.phase != "optimizer":
            self._depth = 1
            try:
                self._note(str(func.name), args, result)
            except Exception as error:
                tell(f"tracing {func.name} failed", error)
            finally:
                self._depth = 0
        return result

    def _note(self, name: str, args: Any, result: Any) -> None:
        outputs = list(tensors_in(result))
        given = list(tensors_in(args))
        stack = user_frames(sys._getframe(2), self.entry)
        custom = None
        if self.phase == "backward":
            custom = _custom(sys._getframe(2), self.entry)
            if custom is None:
                return  # the hooks see it
        if name in _WRITES and given:
            outputs = [given[0]]
        if not outputs:
            return
        inputs = [self.value_of(tensor) for tensor in given]
        self._alive.append((args, result))
        made = [self._new(tensor) for tensor in outputs]
        path, kind, line = self._cells[-1] if self._cells else (None, None, None)
        arrays = [array_of(tensor) for tensor in outputs]
        for tensor in outputs:
            dtype = str(tensor.dtype).lower()
            if dtype not in self.dtypes:
                self.dtypes.append(dtype)
        if name in LOSSES:
            self.loss_call = (LOSSES[name], tuple(summarize(array_of(t)) for t in given[:2]))
        plain = (_WRITES[name] or "identity") if name in _WRITES else op_name(name)
        node = Node(
            index=len(self.graph.nodes),
            name=plain,
            framework_op=name,
            phase=self.phase,
            stack=stack,
            inputs=tuple(inputs),
            outputs=tuple(made),
            module=path,
            module_type=kind,
            made=line,
            custom=custom,
            called=called_name(stack[0]) if stack else None,
            args=_args(plain, args),
        )
        if self.phase == "backward":
            self.graph.gradients.update(made)
        self.graph.add(node, lambda: [self.array(v, t) for v, t in zip(inputs, given)], arrays)


def _args(name: str, args: Any) -> dict[str, Any]:
    numbers = {i: a for i, a in enumerate(args) if isinstance(a, (int, float)) and not isinstance(a, bool)}
    if name == "pow" and 1 in numbers:
        return {"exponent": numbers[1]}
    return {f"argument {i}": number for i, number in numbers.items()}


def _sequence(tensor: Any) -> int | None:
    node = getattr(tensor, "_grad_node", None)
    number = int(node._sequence_nr()) if node is not None else _NO_SEQUENCE
    return number if number < _NO_SEQUENCE else None


def _custom(frame: FrameType | None, entry: FrameType | None) -> str | None:
    """Return the name of the user's own derivative that the frame runs in."""
    for found in user_frames(frame, entry):
        if found.function in ("bprop", "backward"):
            return found.function
    return None
