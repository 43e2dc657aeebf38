"""Runs a step again, eagerly: once with every operation seen, as often as is asked without; reads `tf.data` again."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.eager import backprop
from tensorflow.python.framework import op_callbacks

from whynan.adapters.common.arrays import all_finite, find_index, kind_of, parts_of, to_numpy
from whynan.adapters.common.data.reread import Call, Reader
from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.patches import quiet
from whynan.adapters.common.positions import called_name, forward_name, plain_name, user_frames
from whynan.adapters.tensorflow.closure import Closure, FunctionClosure, SavedVariables
from whynan.adapters.tensorflow.flags import loss_in
from whynan.launch.host import tell
from whynan.records import Phase, Role, SourceLine, What

_READ = "ReadVariableOp"
_ASSIGNS = {"AssignVariableOp": None, "AssignAddVariableOp": "add", "AssignSubVariableOp": "sub"}
_QUIET = {"VarHandleOp", "VarIsInitializedOp", "NoOp", "DestroyResourceOp", "AnonymousIterator", "Assert"}
_MAX_BYTES = 256 * 2**20


class Tracer:
    """Notes operations in a `Graph` while it is entered. `layers` and `losses` are pushed by Keras' side."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.layers: list[tuple[str, str, SourceLine | None]] = []
        self.losses: list[tuple[str, SourceLine | None]] = []
        self.phase: Phase = "forward"
        self.gradient_frame: FrameType | None = None
        self._forward: int | None = None
        self.entry: FrameType | None = None
        """The frame that runs the step: the user's frames outside of it say nothing of an operation."""
        self._variables: dict[int, int] = {}
        self._names: dict[int, tuple[Role, str]] = {}
        self._fresh = -1
        self._alive: list[Any] = []
        self._is_busy = False

    # Entering ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Tracer":
        self._original = backprop._gradient_function
        backprop.pywrap_tfe.TFE_Py_RegisterGradientFunction(self._gradient_function)
        op_callbacks.add_op_callback(self._on_op)
        return self

    def __exit__(self, *_: object) -> None:
        op_callbacks.remove_op_callback(self._on_op)
        backprop.pywrap_tfe.TFE_Py_RegisterGradientFunction(self._original)
        self.entry = None
        self.gradient_frame = None

    def know_variable(self, variable: Any, role: Role, name: str) -> None:
        """Say what a variable is; reads of it will say so too."""
        self._names[id_of(variable.handle)] = (role, name)

    def know_tensor(self, tensor: Any, role: Role, name: str) -> None:
        self.graph.give(id_of(tensor), role, name, to_numpy(tensor))

    def value_of(self, variable: Any) -> int | None:
        """Return the number of the value that a variable was last assigned, None where it was not."""
        return self._variables.get(id_of(variable.handle))

    # Seeing -----------------------------------------------------------------------------------------------------------

    def _gradient_function(self, op_name: str, attrs: Any, n: int, inputs: Any, outputs: Any, *rest: Any) -> Any:
        before = self._forward
        self._forward = self._forward_of(op_name, inputs, outputs)
        try:
            return self._original(op_name, attrs, n, inputs, outputs, *rest)
        finally:
            self._forward = before

    def _forward_of(self, op_name: str, inputs: Any, outputs: Any) -> int | None:
        op_name = op_name.decode() if isinstance(op_name, bytes) else op_name
        name = plain_name(op_name)
        for tensor in outputs or ():
            index = self.graph.producer.get(getattr(tensor, "_id", None))  # type: ignore[arg-type]
            if index is not None:
                return index
        ids = {getattr(tensor, "_id", None) for tensor in inputs or () if tensor is not None}
        candidates = [node for node in self.graph.nodes if node.phase == "forward" and node.name == name]
        return next((node.index for node in candidates if ids & set(node.inputs)), None)

    def _on_op(
        self, op_type: str, inputs: Any, attrs: Any, outputs: Any, op_name: str | None = None, graph: Any = None
    ) -> None:
        op_type = op_type.decode() if isinstance(op_type, bytes) else op_type
        if graph is not None or self._is_busy or op_type in _QUIET:
            return
        self._is_busy = True
        try:
            self._note(op_type, inputs, attrs, outputs)
        except Exception as error:
            tell(f"tracing {op_type} failed", error)
        finally:
            self._is_busy = False

    def _note(self, op_type: str, inputs: Any, attrs: Any, outputs: Any) -> None:
        self._alive += [*inputs, *outputs]
        ids = [id_of(tensor) for tensor in inputs]
        if op_type == _READ:
            self._note_read(ids[0], outputs[0])
            return
        if op_type in _ASSIGNS:
            self._note_assign(op_type, ids, inputs)
            return
        if not outputs:
            return
        arrays = [to_numpy(tensor) if _is_number(tensor) else None for tensor in outputs]
        self._add(op_type, plain_name(op_type), ids, inputs, [id_of(t) for t in outputs], arrays, _args(attrs))

    def _add(
        self, op_type: str, name: str, ids: list[int], inputs: Any, out_ids: list[int], arrays: list[Any],
        args: dict[str, Any],
    ) -> None:  # fmt: skip
        stack = user_frames(sys._getframe(3), self.entry)
        module, module_type, made = self.layers[-1] if self.layers else (None, None, None)
        loss = self.losses[-1][0] if self.losses else None
        if made is None and self.losses:
            made = self.losses[-1][1]
        forward = self.graph.nodes[self._forward] if self._forward is not None else None
        custom = None
        framework_op = op_type
        if forward is not None:
            stack, module, module_type = forward.stack, forward.module, forward.module_type
            made, loss = forward.made, forward.loss
            framework_op = f"gradient of {forward.framework_op} ({op_type})"
        elif self.phase == "backward":
            inside = user_frames(sys._getframe(3), self.gradient_frame) if self.gradient_frame is not None else ()
            custom = inside[0].function if inside else None
            stack = inside + stack if inside else stack
        if self.phase == "backward":
            name = forward_name(op_type)
        node = Node(
            index=len(self.graph.nodes),
            name=name,
            framework_op=framework_op,
            phase=self.phase,
            stack=stack,
            inputs=tuple(ids),
            outputs=tuple(out_ids),
            module=module,
            module_type=module_type,
            made=made,
            forward=self._forward,
            custom=custom,
            loss=loss,
            called=called_name(stack[0]) if stack and forward is None else None,
            args=args,
        )
        if self.phase == "backward":
            self.graph.gradients.update(out_ids)
        self.graph.add(node, lambda: [to_numpy(t) if _is_number(t) else None for t in inputs], arrays)

    def _note_read(self, handle: int, tensor: Any) -> None:
        known = self._variables.get(handle)
        array = to_numpy(tensor)
        if known is not None:
            self._add(_READ, "read_variable", [known], [tensor], [id_of(tensor)], [array], {})
            return
        role, name = self._names.get(handle, ("parameter", "variable"))
        self.graph.give(id_of(tensor), role, name, array)

    def _note_assign(self, op_type: str, ids: list[int], inputs: Any) -> None:
        self._fresh -= 1
        name = _ASSIGNS[op_type]
        handle, value = ids[0], ids[1]
        if name is None:
            array = to_numpy(inputs[1])
            self._add(op_type, "identity", [value], [inputs[1]], [self._fresh], [array], {})
        else:
            now = to_numpy(tf.raw_ops.ReadVariableOp(resource=inputs[0], dtype=inputs[1].dtype))
            self._add(op_type, name, [value], [inputs[1]], [self._fresh], [now], {})
        self._variables[handle] = self._fresh


def id_of(tensor: Any) -> int:
    return int(tensor._id)


def _is_number(tensor: Any) -> bool:
    dtype = tensor.dtype
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex)


def _args(attrs: Any) -> dict[str, Any]:
    found = {}
    for name, value in zip(attrs[::2], attrs[1::2], strict=False):
        name = name.decode() if isinstance(name, bytes) else name
        if isinstance(value, (bool, int, float)) and name not in ("T", "Tidx", "Tshape"):
            found[str(name)] = value
    return found


class Eagerly(ExitStack):
    """Lets `tf.function`s run as the Python that they are made of."""

    def __enter__(self) -> "Eagerly":
        super().__enter__()
        was = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        self.callback(tf.config.run_functions_eagerly, was)
        # Methods would be converted all the same, and run from a file that is not the user's.
        self.enter_context(ag_ctx.ControlStatusCtx(status=ag_ctx.Status.DISABLED))
        return self


def mapped(dataset: Any, sources: Callable[[], list[Any]]) -> Iterator[Reader]:
    """Yield a reader for each function that a pipeline maps, the last one first; `sources` are arrays of samples."""
    node = dataset
    while node is not None:
        function = getattr(getattr(node, "_map_func", None), "_func", None)
        inner = getattr(node, "_input_dataset", None)
        if function is not None and inner is not None and "Flat" not in type(node).__name__:
            yield _Mapped(function, inner, sources).reader()
        node = inner


class _Mapped:
    """A mapped function and what it is given; that is kept, since a shuffle gives another order each time."""

    def __init__(self, function: Any, inner: Iterable[Any], sources: Callable[[], list[Any]]) -> None:
        self.function = function
        self.inner = inner
        self.sources = sources
        self.held: list[Any] = []

    def reader(self) -> Reader:
        return Reader(self._calls, index_of=self._index)

    def _calls(self) -> Iterator[Call]:
        is_first, room = not self.held, _MAX_BYTES
        for element in self.inner if is_first else self.held:
            room -= sum(int(tf.size(t)) * t.dtype.size for t in tf.nest.flatten(element) if hasattr(t, "dtype"))
            if room < 0:
                return
            if is_first:
                self.held.append(element)
            yield partial(self.function, *(element if type(element) is tuple else (element,)))

    def _index(self, number: int) -> int | None:
        parts = parts_of([("item", tf.nest.map_structure(lambda value: value[None], self.held[number]))])
        return find_index(parts, 0, self.sources())


class Stop(BaseException):
    """Ends an attempt: its symptom has come."""


@dataclass
class Attempt:
    """One run of a step again, and what came of it."""

    tracer: Tracer | None = None
    what: What | None = None
    name: str = ""
    kind: str = ""
    tensors: list[Any] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    loss: Any = None
    error: BaseException | None = None
    clip: float | None = None
    stops_at_loss: bool = False
    replica: int | None = None
    """Which one's step is run, where several would run it."""
    loss_call: tuple[str, Any, Any] | None = None

    @property
    def is_finite(self) -> bool:
        return self.what is None

    def on_loss(self, loss: Any) -> None:
        """The step has come to its loss."""
        self.loss = loss
        array = to_numpy(loss)
        if array is not None and not all_finite(array):
            self._end("loss", "loss", [loss])

    def on_gradients(self, target: Any, named: list[tuple[str, Any]], is_scaled: bool) -> None:
        self.on_loss(target)
        bad = [(name, g) for name, g in named if not all_finite(to_numpy(g))]
        if bad and not is_scaled:
            self._end("gradient", bad[0][0], [g for _, g in bad])

    def on_end(self, variables: Iterable[tuple[str, Any]]) -> None:
        """The step has ended: its update may be what is not finite."""
        found = [(name, v) for name, v in variables if v.dtype.is_floating and not all_finite(v.numpy())]
        # A weight is named rather than what an optimizer keeps.
        for name, variable in sorted(found, key=lambda item: bool(item[1].trainable)):
            self.what, self.name, self.kind = "parameter", name, kind_of(variable.numpy()) or "nan"
            value = self.tracer.value_of(variable) if self.tracer is not None else None
            self.starts += [value] if value is not None else []

    def _end(self, what: What, name: str, tensors: list[Any]) -> None:
        self.what, self.name, self.tensors = what, name, tensors
        self.kind = kind_of(to_numpy(tensors[0])) or "nan"
        self.starts = [id_of(tensor) for tensor in tensors]
        raise Stop


class Replayer:
    """Runs closures for one incident; everything that they change is put back."""

    def __init__(self, watch: Any, closure: Closure, hooks: Callable[[Attempt, ExitStack], None]) -> None:
        self.watch = watch
        self.closure = closure
        self.hooks = hooks
        self.variables = closure.variables()
        self.saved = SavedVariables(self.variables)
        self.n_runs = 0

    def traced(self) -> Attempt:
        tracer = Tracer()
        for name, variable in self.variables:
            tracer.know_variable(variable, "parameter" if variable.trainable else "buffer", name)
        for part, tensor in self._tensors():
            tracer.know_tensor(tensor, part.role, part.name)
        return self.run(Attempt(tracer=tracer))

    def _tensors(self) -> list[tuple[Any, Any]]:
        parts = self.closure.parts
        by_array = []
        flat = [value for _, value in self.closure.inputs()]
        leaves = [leaf for leaf in tf.nest.flatten(flat) if tf.is_tensor(leaf)]
        arrays = [to_numpy(leaf) for leaf in leaves]
        for part in parts:
            for leaf, array in zip(leaves, arrays):
                if (
                    array is not None
                    and array.shape == part.array.shape
                    and array.ctypes.data == part.array.ctypes.data
                ):
                    by_array.append((part, leaf))
                    break
        return by_array

    def run(self, attempt: Attempt, closure: Closure | None = None, is_restored: bool = True) -> Attempt:
        """Run the step as the attempt says; `closure` instead of the failing one."""
        self.n_runs += 1
        attempt.stops_at_loss = self.closure.stage == "validation"
        chosen = closure or self.closure
        attempt.replica = chosen.replica
        self.watch.attempt = attempt
        try:
            with quiet(), ExitStack() as stack:
                self.hooks(attempt, stack)
                stack.enter_context(Eagerly())
                if attempt.tracer is not None:
                    attempt.tracer.entry = sys._getframe()
                    stack.enter_context(attempt.tracer)
                result = chosen.call()
                if attempt.stops_at_loss and isinstance(chosen, FunctionClosure):
                    loss = loss_in(chosen.function, result)
                    if loss is not None:
                        attempt.on_loss(loss)
            attempt.on_end(self.variables)
        except Stop:
            pass
        except Exception as error:
            attempt.error = error
        finally:
            self.watch.attempt = None
            if is_restored:
                self.saved.restore()
        return attempt

    def began_finite(self) -> bool:
        """Whether the weights that the step begins with are finite."""
        return all(all_finite(v.numpy()) for _, v in self.variables if v.trainable and v.dtype.is_floating)

    def fails(self, closure: Closure | None = None) -> bool:
        """Whether the step, untraced, is not finite."""
        attempt = self.run(Attempt(), closure)
        return attempt.error is None and not attempt.is_finite
