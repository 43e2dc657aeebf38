"""See every operation of a replayed step, and keep those with non-finite outputs and who wrote their inputs.

A `TorchDispatchMode` sees each aten op of forward, backward and optimizer. Values are told apart by storage and element
address, so that views and in-place writes are followed. A backward op is led to its forward line by autograd's
sequence number, which is the same on the node and, at the time of the forward op, in autograd's own counter.
"""

import linecache
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whynan.adapters.torch.elements import (
    element_address,
    is_nonfinite,
    kind_at,
    nonfinite_elements,
    sampled_elements,
)
from whynan.adapters.torch.frames import ModuleStack, custom_backward_frames, is_optimizer_innermost, user_frames
from whynan.adapters.torch.opfacts import (
    LOSS_OPS,
    args_by_name,
    birth_facts,
    gathered_rows,
    is_literal,
    summarize,
    written_arguments,
)
from whynan.adapters.torch.storages import Storages, aligned, is_watched, key_of, relevant_elements, values_of
from whynan.records import Phase
from whynan.trace import Edge, ForwardOp, Gather, Leaf, LossCall, OpRecord, ScalarOp, Trace

UNINITIALIZED = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "resize_"}
IGNORED = {"detach", "_local_scalar_dense", "is_same_size", "_record_function_enter_new", "_record_function_exit"}
_MAX_OUTPUTS = 4


class Tracer(TorchDispatchMode):  # type: ignore[misc]
    """Fill a `Trace` while it is entered. `is_in_optimizer` tells whether an optimizer's step is under way.

    With `updates_by_hand` what runs without gradients after a backward pass is the script's own update.
    """

    def __init__(self, is_in_optimizer: Callable[[], bool] = lambda: False, updates_by_hand: bool = False) -> None:
        super().__init__()
        self.updates_by_hand = updates_by_hand
        self.is_in_optimizer = is_in_optimizer
        self.is_paused = False
        self._is_differentiable = True
        self.tainted: set[int] = set()
        self.foreign: set[int] = set()
        """Values that should have come from other ranks of the job, and what was made of them."""
        self.trace = Trace()
        self.modules = ModuleStack()
        self.storages = Storages()
        self.lineage: list[tuple[str, tuple[int, ...]]] = []
        self.absorbed: list[tuple[int, str, tuple[int, ...]]] = []
        self.last_root: int | None = None
        self.first_backward: int | None = None
        self._slogdet: tuple[int, Any] = (-9, None)

    def taint(self, tensors: Iterable[Any]) -> None:
        """Follow from here on which floating-point values depend on these tensors."""
        self.tainted |= {key_of(tensor) for tensor in tensors}

    def depends_on_parameters(self, tensor: Any) -> bool:
        return key_of(tensor) in self.tainted

    def depends_on_others(self, tensor: Any) -> bool:
        """Whether a value was made of what other ranks would have sent."""
        return key_of(tensor) in self.foreign

    def pause(self) -> None:
        """See nothing more; what has been seen can be asked about."""
        self.is_paused = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        if name in IGNORED or self.is_paused:
            return func(*args, **kwargs)
        index = self.trace.n_ops
        self.trace.n_ops += 1
        if name == "ones_like":
            self._note_root(args)
        node = torch._C._current_autograd_node()
        if node is not None and self.first_backward is None:
            self.first_backward = index
        sequence = torch._C._autograd._get_sequence_nr() - 1
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        written = written_arguments(func, name, args, kwargs)
        before = [(tensor, tensor.detach().clone()) for tensor in map(values_of, written) if is_watched(tensor)]
        out = func(*args, **kwargs)
        self._is_differentiable = torch.is_grad_enabled()
        try:
            with torch.no_grad():
                self._see(func, name, index, node, sequence, args, kwargs, inputs, before, out)
        except Exception as error:  # the replay goes on without this op
            self.trace.n_failed += 1
            self.trace.failure = self.trace.failure or f"{name}: {error!r}"
        return out

    def _see(
        self,
        func: Any,
        name: str,
        index: int,
        node: Any,
        sequence: int,
        args: Any,
        kwargs: Any,
        inputs: list[Any],
        before: list[tuple[Any, Any]],
        out: Any,
    ) -> None:
        inputs = [values_of(tensor) for tensor in inputs]
        outputs = [values_of(leaf) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        for tensor, _ in before:
            if not any(tensor is other for other in outputs):
                outputs.append(tensor)
        if name == "_linalg_slogdet":
            self._slogdet = index, inputs[0]
        in_keys = {key_of(tensor) for tensor in inputs}
        writers = [self.storages.writer(tensor) for tensor in inputs]
        parents = tuple({writer for writer in writers if writer is not None})
        is_view = self._note_writes(name, index, outputs, in_keys, before, parents)
        stack = None
        if sequence not in self.trace.forward:
            stack = self._note_forward(name, index, node, sequence, sys._getframe(2))
        self._note_gather(name, index, args, outputs)
        if is_view and not before:
            return
        if name in LOSS_OPS:
            summaries = tuple(summarize(tensor) for tensor in inputs[:3])
            self.trace.loss_calls.append(LossCall(LOSS_OPS[name], index, summaries, args_by_name(func, args, kwargs)))
        for tensor in outputs:
            if (
                is_watched(tensor)
                and tensor.numel() == 1
                and name not in UNINITIALIZED
                and index not in self.trace.scalars
            ):
                stack = stack or user_frames(sys._getframe(2))
                self._note_scalar(name, index, tensor, inputs, stack)
        bad = [tensor for tensor in outputs if is_watched(tensor) and is_nonfinite(tensor)]
        suspicious = any(key in self.storages for key in in_keys)
        if not bad:
            if suspicious and node is None:
                sources = tuple(self._writers_of(inputs))
                if sources:
                    self.absorbed.append((index, name, sources))
            return
        self._record(func, name, index, node, sequence, args, kwargs, inputs, before, outputs, bad, stack)

    def _note_forward(self, name: str, index: int, node: Any, sequence: int, frame: FrameType) -> Any:
        """Remember the line of an op that may have a derivative; return its stack where it was looked at.

        A backward pass has such ops too: of a checkpoint's second forward pass, and of a gradient that is itself
        differentiated. The latter's line is that of the op whose derivative they compute.
        """
        path, kind = self.modules.current()
        if node is None:
            if self._in_optimizer_code(frame):
                return None
            stack = user_frames(frame)
        elif self._is_differentiable:
            first = self.trace.forward.get(node._sequence_nr())
            stack = custom_backward_frames(frame) or (first.stack if first is not None else ())
            if not stack:
                return None
            if first is not None and path is None:
                path, kind = first.module, first.module_type
        else:
            return None
        self.trace.forward[sequence] = ForwardOp(name, stack, path, kind, index)
        return stack if node is None else None

    def _note_root(self, args: Any) -> None:
        """A backward pass begins with a gradient of ones in the loss's likeness."""
        if isinstance(args[0], torch.Tensor) and args[0].numel() == 1:
            self.last_root = self.storages.writer(args[0])

    def _note_writes(
        self, name: str, index: int, outputs: list[Any], in_keys: set[int], before: list[Any], parents: tuple[int, ...]
    ) -> bool:
        """Update who wrote which storage last; return whether the op only made views."""
        is_view = bool(outputs)
        mutated = {key_of(tensor) for tensor, _ in before}
        self.lineage.append((name, parents))
        is_tainted = not self.tainted.isdisjoint(in_keys)
        is_foreign = bool(self.foreign) and not self.foreign.isdisjoint(in_keys)
        for tensor in outputs:
            key = key_of(tensor)
            if key in in_keys and key not in mutated:
                continue
            is_view = False
            if key not in in_keys:
                self.storages.begin(tensor, key)
                self.tainted.discard(key)
                self.foreign.discard(key)
            if is_tainted and is_watched(tensor):
                self.tainted.add(key)
            if is_foreign:
                self.foreign.add(key)
            self.storages.wrote(key, index)
        return is_view

    def _note_scalar(self, name: str, index: int, tensor: Any, inputs: list[Any], stack: Any) -> None:
        writers = [self.storages.writer(t) for t in inputs if t.numel() <= 64 and t.is_floating_point()]
        value = float(tensor.detach().reshape(()).to(torch.float64))
        address = (key_of(tensor), tensor.storage_offset())
        self.trace.scalars[index] = ScalarOp(
            index, name, stack, tuple(i for i in writers if i is not None and i != index), value, address
        )

    def _note_gather(self, name: str, index: int, args: Any, outputs: list[Any]) -> None:
        if name not in ("index", "index_select", "slice", "embedding", "gather") or not outputs:
            return
        rows = gathered_rows(name, args)
        if rows is not None:
            frames = user_frames(sys._getframe(3))
            frame = frames[0] if frames else None
            source = args[0]
            stride = max(int(source.stride(0)), 1)
            keys, size = (key_of(outputs[0]), key_of(source)), int(source.shape[0])
            self.trace.gathers.append(
                Gather(index, name, *keys, rows, frame, size, stride, int(source.storage_offset()))
            )

    def _writers_of(self, inputs: list[Any]) -> list[int]:
        found = []
        for tensor in inputs:
            writer = self.storages.last_nonfinite(tensor) if is_watched(tensor) else None
            if writer is not None and is_nonfinite(tensor):
                found.append(writer)
        return found

    def _record(
        self,
        func: Any,
        name: str,
        index: int,
        node: Any,
        sequence: int,
        args: Any,
        kwargs: Any,
        inputs: list[Any],
        before: list[tuple[Any, Any]],
        outputs: list[Any],
        bad: list[Any],
        stack: Any,
    ) -> None:
        old = {id(tensor): copy for tensor, copy in before}
        samples = [(out, element, kind) for out in bad[:_MAX_OUTPUTS] for element, kind in sampled_elements(out)]
        edges = self._edges(func, name, args, kwargs, inputs, old, outputs, samples)
        births = _births(samples, edges)
        out, _, kind = samples[births[0] if births else 0]
        elements = [sample[1] for n, sample in enumerate(samples) if sample[0] is out and (n in births or not births)]
        record = OpRecord(
            index=index,
            name=name,
            framework_op=str(func),
            phase=self._phase(node, sys._getframe(3)),
            stack=stack or user_frames(sys._getframe(3)),
            kind=kind,
            edges=tuple(edges),
            elements=tuple(elements),
            samples={(key_of(o), element_address(o, e)): n for n, (o, e, _) in enumerate(samples)},
            kinds=tuple(sample[2] for sample in samples),
        )
        self._place(record, node, sequence)
        record.literal = is_literal(name, args, kwargs)
        record.uninitialized = name in UNINITIALIZED
        if births:
            inputs = aligned(name, args, outputs, inputs, out)
            values = [old.get(id(tensor), tensor) for tensor in inputs]
            record.inputs = tuple(summarize(value) for value in values if isinstance(value, torch.Tensor))[:6]
            record.output = summarize(out)
            record.args = args_by_name(func, args, kwargs)
            record.facts = birth_facts(name, args, kwargs, values, out, elements)
            record.facts["made_by"] = self._made_by(inputs, index)
            record.facts["input_keys"] = [key_of(tensor) for tensor in inputs][:6]
            record.facts["input_tainted"] = [key_of(tensor) in self.tainted for tensor in inputs][:6]
        if name == "scalar_tensor" and index - self._slogdet[0] == 2 and _calls_logdet(record.stack):
            # `logdet` is not seen as such: after slogdet and eq it writes NaN for a negative determinant.
            record.name, record.framework_op, record.literal = "logdet", "aten.logdet.default", False
            record.inputs = (summarize(self._slogdet[1]),)
        for tensor in bad:
            self.storages.wrote_nonfinite(tensor, index)
        self.trace.records[index] = record

    def _place(self, record: OpRecord, node: Any, sequence: int) -> None:
        if node is None:
            record.sequence = sequence
            record.module, record.module_type = self.modules.current()
            record.custom = self.modules.custom_function(record.stack)
            return
        record.node, record.sequence = node.name(), node._sequence_nr()
        if record.node.endswith("CopySlices"):  # an op in place on a view: its node was made just before this one
            record.sequence -= 1
        forward = self.trace.forward.get(record.sequence)
        if forward is not None and record.node.endswith("CopySlices"):
            record.node = "".join(word.capitalize() for word in forward.name.split("_")) + "Backward0"
        custom = custom_backward_frames(sys._getframe(4))
        if custom:
            record.stack, record.custom = custom, record.node.removesuffix("Backward")
        elif forward is not None:
            record.stack = forward.stack
        if forward is not None:
            record.module, record.module_type = forward.module, forward.module_type

    def _phase(self, node: Any, frame: FrameType) -> Phase:
        if node is not None:
            return "backward"
        return "optimizer" if self._in_optimizer_code(frame) else "forward"

    def _in_optimizer_code(self, frame: FrameType) -> bool:
        """Whether an optimizer's own code runs; a closure that it calls is the user's forward pass again."""
        if self.updates_by_hand and self.first_backward is not None and not self._is_differentiable:
            return True
        return self.is_in_optimizer() and is_optimizer_innermost(frame)

    def _edges(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        inputs: list[Any],
        old: dict[int, Any],
        outputs: list[Any],
        samples: list[Any],
    ) -> list[Edge]:
        edges: list[Edge] = []
        for position, tensor in enumerate(inputs):
            value = old.get(id(tensor), tensor)
            if not is_watched(value) or value.numel() == 0 or not is_nonfinite(value):
                continue
            if name == "copy_" and position == 0:
                continue  # what stood in the destination before does not matter
            for target, (out, element, _) in enumerate(samples):
                if not any(tensor is other for other in aligned(name, args, outputs, [tensor], out)):
                    continue
                places = relevant_elements(func, name, args, kwargs, tensor, value, position, out, element)
                number = None if places is None else target
                for place in nonfinite_elements(value, 6)[0] if places is None else places:
                    kind = kind_at(value, place)
                    if kind is not None:
                        edges.append(self._edge(position, kind, tensor, place, number))
                if places is None:
                    break  # all of the input bears on all of the output
        return edges

    def _edge(self, position: int, kind: Any, tensor: Any, element: tuple[int, ...], target: int | None) -> Edge:
        address = element_address(tensor, element)
        place = (key_of(tensor), address)
        index = self.storages.find(tensor, address)
        if index is not None:
            return Edge(position, kind, index, None, element, place, target)
        writer = self.storages.writer(tensor)
        constant = writer is not None and self._is_constant(writer)
        leaf = Leaf(place[0], address, summarize(tensor), constant, tuple(tensor.shape))
        return Edge(position, kind, None, leaf, element, place, target)

    def _is_constant(self, index: int) -> bool:
        return index < len(self.lineage) and self.lineage[index][0] in (
            "lift_fresh",
            "lift_fresh_copy",
            "scalar_tensor",
        )

    def _made_by(self, inputs: list[Any], index: int) -> list[str]:
        """Names of the ops which made the inputs, nearest first, through up to 12 generations of the main line."""
        names: list[str] = []
        todo = [writer for tensor in inputs if (writer := self.storages.writer(tensor)) is not None]
        seen: set[int] = {index}
        while todo and len(names) < 24:
            current = todo.pop(0)
            if current in seen or current >= len(self.lineage):
                continue
            seen.add(current)
            name, parents = self.lineage[current]
            names.append(name)
            todo.extend(parents)
        return names

    def is_ancestor(self, ancestor: int, index: int, limit: int = 4000) -> bool:
        """Whether the output of op `ancestor` reaches op `index` along the ops of this trace."""
        todo = [index]
        seen: set[int] = set()
        while todo and len(seen) < limit:
            current = todo.pop()
            if current == ancestor:
                return True
            if current in seen or current < ancestor or current >= len(self.lineage):
                continue
            seen.add(current)
            todo.extend(self.lineage[current][1])
        return False

    def writer_at(self, tensor: Any, element: tuple[int, ...]) -> Edge | None:
        """Return the edge that leads from a tensor's element to the op which wrote it; the walk's first step."""
        kind = kind_at(tensor, element)
        return None if kind is None else self._edge(0, kind, tensor, element, None)


def _calls_logdet(stack: Any) -> bool:
    return any("logdet" in linecache.getline(f.file, f.line or 0).replace("slogdet", "") for f in stack[:1])


def _births(samples: list[Any], edges: list[Edge]) -> list[int]:
    """Return the numbers of the samples that the op itself made non-finite, or made NaN of infinities."""
    found = []
    for number, (_, _, kind) in enumerate(samples):
        kinds = {edge.kind for edge in edges if edge.target in (None, number)}
        if not kinds or (kind == "nan" and "nan" not in kinds):
            found.append(number)
    return found
