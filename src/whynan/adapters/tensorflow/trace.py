"""Sees every operation of an eagerly run step, its forward and its backward pass."""

import sys
from contextlib import ExitStack
from types import FrameType
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.eager import backprop
from tensorflow.python.framework import op_callbacks

from whynan.adapters.common.arrays import to_numpy
from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.positions import called_name, forward_name, plain_name, user_frames
from whynan.launch.host import tell
from whynan.records import Phase, SourceLine
from whynan.records.op import Role

_READ = "ReadVariableOp"
_ASSIGNS = {"AssignVariableOp": None, "AssignAddVariableOp": "add", "AssignSubVariableOp": "sub"}
_QUIET = {"VarHandleOp", "VarIsInitializedOp", "NoOp", "DestroyResourceOp", "AnonymousIterator", "Assert"}


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
