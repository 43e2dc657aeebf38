"""Which node of the graph a tensor is of: by the object, its place in memory, and what was written there since."""

import weakref
from typing import Any

from whynan.adapters.torch.check.measure import is_expired, key_of, pointer_of, weak
from whynan.adapters.torch.check.program import Program
from whynan.check.graph import Graph


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
        """A node has written to a tensor's memory."""
        self._last_write[pointer_of(tensor)] = index

    def leaf(self, tensor: Any, index: int) -> None:
        """Bind a tensor that was there before the recording."""
        self.bind(tensor, index)
        self._alive[pointer_of(tensor)] = weak(tensor)
