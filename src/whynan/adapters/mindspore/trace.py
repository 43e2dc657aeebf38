"""A MindSpore step traced: every operation forward, then the backward pass node by node.

Forward operations come through a dispatch mode. A backward pass is made of nodes that run natively: a hook on each node
of the loss's graph sees what went in and what came out, and a node is known by the forward operation it belongs to.
"""

import sys
from types import FrameType
from typing import Any

from mindspore import nn

from whynan.adapters.common.arrays import summarize
from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.patches import Patches
from whynan.adapters.common.positions import called_name, user_frames
from whynan.adapters.mindspore.dispatch import (
    Dispatch,
    Flows,
    Operation,
    array_of,
    given_to,
    has_nodes,
    is_tensor,
    name_of,
    op_name,
    tensors_in,
)
from whynan.adapters.mindspore.known import Places, names_of_cells
from whynan.launch.host import tell
from whynan.records import Phase, SourceLine
from whynan.records.op import Role, TensorSummary

_NO_SEQUENCE = 2**63


class BackwardPass:
    """Hooks on every node below a loss. `ends` are the non-finite values that reached a parameter."""

    def __init__(self, tracer: "Tracer", loss: Any) -> None:
        self.tracer = tracer
        self.ends: list[int] = []
        self.incoming: dict[tuple[int, int], list[int]] = {}
        """By a node's id and the number of its output: the gradients that flow into it."""
        self.forward: dict[int, int] = {}
        """By sequence number: the forward operation's index in the graph."""
        self.arrays: dict[int, Any] = {}
        self._nodes: list[Any] = []
        self._n_before = len(tracer.graph.nodes)
        root = getattr(loss, "_grad_node", None)
        if root is not None:
            self._hook_all(root)
            self._match()

    def _hook_all(self, root: Any) -> None:
        todo, seen = [root], set[int]()
        while todo:
            node = todo.pop()
            key = _key(node)
            if key in seen:
                continue
            seen.add(key)
            self._nodes.append(node)
            if not node.is_leaf():
                node.register_hook(self._hook(node))
            todo += [after for after, _ in node.next_functions if after is not None]

    def _match(self) -> None:
        """Find the forward operation of each node: by the value it made, else by name and order."""
        graph, tracer = self.tracer.graph, self.tracer
        nodes = sorted((n for n in self._nodes if int(n._sequence_nr()) < _NO_SEQUENCE), key=lambda n: n._sequence_nr())
        anchors: dict[int, int] = {}
        for sequence, value in tracer.sequences.items():
            index = graph.producer.get(value)
            if index is not None:
                anchors[sequence] = index
        place = 0
        for node in nodes:
            sequence, name = int(node._sequence_nr()), str(node.name())
            index = anchors.get(sequence)
            if index is not None and graph.nodes[index].framework_op == name:
                self.forward[sequence] = index
                place = index + 1
                continue
            limit = min((i for s, i in anchors.items() if s > sequence), default=self._n_before)
            found = next((i for i in range(place, limit) if graph.nodes[i].framework_op == name), None)
            if found is not None:
                self.forward[sequence] = found
                place = found + 1
            elif index is not None:
                self.forward[sequence] = index

    def _hook(self, node: Any) -> Any:
        def hook(grad_in: Any, grad_out: Any) -> None:
            tracer = self.tracer
            depth, tracer._depth = tracer._depth, 1
            try:
                self._seen(node, _listed(grad_in), _listed(grad_out))
            except Exception as error:
                tell(f"tracing the derivative of {node.name()} failed", error)
            finally:
                tracer._depth = depth

        return hook

    def _seen(self, node: Any, grad_in: list[Any], grad_out: list[Any]) -> None:
        tracer, graph = self.tracer, self.tracer.graph
        key, sequence, name = _key(node), int(node._sequence_nr()), str(node.name())
        index = self.forward.get(sequence)
        forward = graph.nodes[index] if index is not None else None
        tracer._alive += [grad_in, grad_out]
        inputs, arrays = list[int](), list[Any]()
        for place, tensor in enumerate(grad_out):
            if tensor is not None:
                array = array_of(tensor)
                inputs.append(self._arrived(key, place, array, forward))
                arrays.append(array)
        if forward is not None:
            for value in (*forward.inputs, *forward.outputs):
                if value in tracer.tensors:
                    inputs.append(value)
                    arrays.append(tracer.array(value, tracer.tensors[value]))
        custom = None
        if "Custom" in name:
            # The script's own derivative: the operations inside of it were seen one by one.
            inside = [n for n in graph.nodes[self._n_before :] if n.custom is not None and n.index in graph.kept]
            custom = inside[-1].custom if inside else "bprop"
            for inner in inside:
                inputs += inner.outputs
                arrays += [graph.bad.get(v) for v in inner.outputs]
        after = list(node.next_functions)
        outputs, made = list[int](), list[Any]()
        for place, tensor in enumerate(grad_in):
            if tensor is None or place >= len(after) or after[place][0] is None:
                continue
            value, array = tracer.fresh(), array_of(tensor)
            outputs.append(value)
            made.append(array)
            target, number = after[place]
            if target.is_leaf():
                self._end(value, array)
            else:
                self.incoming.setdefault((_key(target), int(number)), []).append(value)
        if not outputs:
            return
        plain = forward.name if forward is not None else op_name(name)
        node_of = Node(
            index=len(graph.nodes),
            name=plain,
            framework_op=f"gradient of {name}",
            phase="backward",
            stack=forward.stack if forward is not None else (),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            module=forward.module if forward is not None else None,
            module_type=forward.module_type if forward is not None else None,
            made=forward.made if forward is not None else None,
            forward=index,
            custom=custom,
            args=forward.args if forward is not None else {},
        )
        graph.gradients.update(outputs)
        for value, array in zip(outputs, made):
            self.arrays[value] = array
        graph.add(node_of, lambda: arrays, made)

    def _arrived(self, key: int, place: int, array: Any, forward: Node | None) -> int:
        """Return the value of what flowed in; where several gradients did, their sum."""
        tracer, graph = self.tracer, self.tracer.graph
        values = self.incoming.get((key, place), [])
        if len(values) == 1:
            return values[0]
        value = tracer.fresh()
        graph.gradients.add(value)
        if values:
            parts = [self.arrays[v] for v in values]
            total = Node(
                index=len(graph.nodes),
                name="add",
                framework_op="sum of gradients",
                phase="backward",
                stack=forward.stack if forward is not None else (),
                inputs=tuple(values),
                outputs=(value,),
                forward=forward.index if forward is not None else None,
            )
            graph.add(total, lambda: parts, [array])
        return value

    def _end(self, value: int, array: Any) -> None:
        from whynan.adapters.common.arrays import all_finite

        if not all_finite(array):
            self.ends.append(value)


def _listed(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, (tuple, list)) else [tensors]


_QUIET = {"Contiguous", "Depend", "typeof", "sequence_len", "make_range"}
LOSSES = {
    "BinaryCrossEntropy": "binary_crossentropy", "NLLLoss": "nll_loss", "KLDivLoss": "kl_div",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "SparseSoftmaxCrossEntropyWithLogits": "cross_entropy", "SoftmaxCrossEntropyWithLogits": "cross_entropy",
}  # fmt: skip
"""Kernels of losses, by the name that causes know them by."""
_WRITES = {"Assign": None, "AssignAdd": "add", "AssignSub": "sub", "InplaceCopy": None}


class Tracer(Dispatch):  # type: ignore[misc]
    def __init__(self, places: Places, roots: list[Any]) -> None:
        self.graph = Graph()
        self.places = places
        self.names = names_of_cells(roots)
        self.phase: Phase = "forward"
        self.is_by_hand = False
        """Whether the update's operations are the script's own."""
        self.entry: FrameType | None = None
        """The frame that runs the step: the user's frames outside of it say nothing of an operation."""
        self.tensors: dict[int, Any] = {}
        """A tensor for each value. None of them may be freed while the trace runs: memory tells values apart."""
        self.sequences: dict[int, int] = {}
        """The value that the autograd node of that sequence number made."""
        self.backward: BackwardPass | Flows | None = None if has_nodes else Flows(self)
        self.dtypes: list[str] = []
        """The dtypes that operations made, each once."""
        self.loss_call: tuple[str, tuple[TensorSummary, ...]] | None = None
        self._by_memory: dict[int, tuple[int, int]] = {}
        self._by_object: dict[int, int] = {}
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
        value = self._new(tensor)
        # A copy: kernels write running statistics into what they were given.
        self.graph.give(value, role, name, array_of(tensor).copy())

    def value_of(self, tensor: Any) -> int:
        if id(tensor) in self._by_object:
            return self._by_object[id(tensor)]
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

    def bad_gradients(self, named: list[tuple[str, Any]]) -> list[int]:
        """Return the values that are not finite and end at a parameter; `named` are the gradients that did."""
        if isinstance(self.backward, Flows):
            for name, array in named:
                self.backward.end(name, array)
        if self.backward is not None and self.backward.ends:
            return self.backward.ends
        return [value for value in self.graph.bad if value in self.graph.gradients][-8:]

    def follow_back(self, loss: Any) -> None:
        """The forward pass has come to what is differentiated: see the backward pass from here."""
        try:
            self.value_of(loss)
            if has_nodes:
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
        if not has_nodes:
            self._by_object[id(tensor)] = value
        return value

    def fresh(self) -> int:
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
        # The stand-in sees functions made of several operations too: those inside are what is noted.
        is_whole, n_before = not isinstance(func, Operation), len(self.graph.nodes)
        self._depth += is_whole
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._depth -= is_whole
        if self._depth == 0 and (self.phase != "optimizer" or self.is_by_hand) and len(self.graph.nodes) == n_before:
            self._depth = 1
            try:
                name = name_of(func, result)
                if name not in _QUIET:
                    self._note(name, given_to(func, args, kwargs), result)
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
        for value, tensor in zip(made, outputs):
            sequence = _sequence(tensor)
            if sequence is not None:
                self.sequences.setdefault(sequence, value)
            if isinstance(self.backward, Flows) and self.phase == "forward":
                self.backward.follow(value, tensor)
        path, kind, line = self._cells[-1] if self._cells else (None, None, None)
        arrays = [array_of(tensor) for tensor in outputs]
        if name in _WRITES:
            # A parameter's memory, which is put back after the trace.
            arrays = [array.copy() for array in arrays]
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
    if name == "pow" and len(args) > 1 and is_tensor(args[1]) and args[1].size == 1:
        numbers[1] = float(array_of(args[1]).reshape(-1)[0])  # a number that the library has made a tensor of
    if name == "pow" and 1 in numbers:
        return {"exponent": numbers[1]}
    return {f"argument {i}": number for i, number in numbers.items()}


def _key(node: Any) -> int:
    """Return what tells a node from others; before 2.9 its sequence number does, of all that are no leaves."""
    return int(getattr(node, "_unique_id", node._sequence_nr)())


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
