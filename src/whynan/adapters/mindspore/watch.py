"""Watches gradient functions, optimizers and compiled steps: a step whose numbers are not finite updates nothing.

In PyNative mode the loss is looked at when a function has been differentiated, the gradients when an optimizer gets
them. Of a compiled step the loss it returns is looked at; `nn.TrainOneStepCell` runs as a cell that makes its own
update conditional (`guard.py`).

Losses that nothing is trained with are looked at too: of `Model.eval`'s network, and those that the script reads.
"""

import functools
import math
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import context, nn

from whynan.adapters.common.arrays import all_finite
from whynan.adapters.common.loops import is_bad_loss, speaks_of_loss
from whynan.adapters.common.patches import Patches
from whynan.adapters.mindspore.dispatch import api, array_of, differentiates, is_floating, tensors_in
from whynan.adapters.mindspore.experiments import Guards
from whynan.adapters.mindspore.known import Known, Places, like, norm_kinds, optimizer_kinds
from whynan.adapters.mindspore.replay import Attempt, CellClosure, SavedParameters, given_to
from whynan.launch.host import is_user_file
from whynan.watching import Budget

_SPEAKS_OF_STEPS = re.compile(r"grad|optim|\bopt\b|train", re.IGNORECASE)
_MAX_COPY = 256 * 2**20
_READS = ("__float__", "asnumpy", "item", "__str__", "__format__")


@dataclass
class Told:
    """What one step has shown."""

    loss_bad: bool = False
    gradient_bad: bool = False
    loss: float = math.nan
    grad_norm: float = math.nan
    grad_norms: dict[str, float] = field(default_factory=dict)
    """The norm of each parameter's gradient."""
    gradient: str = "gradient"

    @property
    def is_bad(self) -> bool:
        return self.loss_bad or self.gradient_bad


class Watch(Known):
    """What is patched, and what it has seen. The host sets the functions that are told."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches()
        self.places = Places()
        self.guards = Guards()
        self.attempt: Attempt | None = None
        self.is_enabled = True
        self.on_first_gradient: Callable[[], None] | None = None
        self.depth = 0
        self.given: list[tuple[str, Any]] = []
        self.told = Told()
        self.has_loss = False
        self.withholds = False
        """Whether the coming update belongs to a step that was an incident and is left out."""
        self.datasets: list[Any] = []
        self.before: SavedParameters | None = None
        self.unscaled: Any = None
        self.is_in_model = 0
        self.run_of_model: Any = None
        self.on_loss: Callable[[Told], None] = lambda told: None
        self.on_gradients: Callable[[Told, Any], None] = lambda told, optimizer: None
        self.on_update: Callable[[Any], None] = lambda optimizer: None
        self.on_compiled: Callable[[Told, Any], None] = lambda told, call: None
        self.on_validation: Callable[[float, CellClosure | None], None] = lambda loss, closure: None
        self.n_validated = 0
        """Validation batches since the last step."""
        self.before_cell: Callable[[Any, tuple[Any, ...]], None] = lambda cell, args: None
        self.after_cell: Callable[[Any, tuple[Any, ...], Told | None], None] = lambda cell, args, told: None
        self._copies = Budget(0.01, n_first=3, free_s=2e-4)
        self._looks = Budget(0.01, n_first=3, free_s=2e-4)

    def install(self) -> None:
        replace = self.patches.replace
        differentiates(self.patches, self._forward, self._backward)
        for kind in optimizer_kinds():
            replace(kind, "__call__", self._optimizer_call)
            replace(kind, "__init__", self._optimizer_init)
        replace(api._JitExecutor, "__call__", self._jit_call)
        replace(nn.TrainOneStepCell, "__call__", self._step_call)
        for norm in norm_kinds():
            replace(norm, "__init__", self._norm_init)
        for scaler in (ms.amp.DynamicLossScaler, ms.amp.StaticLossScaler):
            replace(scaler, "scale", self._scale)
        replace(ms.train.Model, "_train_process", self._inside_model)
        install(self)
        from mindspore.dataset.engine.datasets import Dataset

        for name in ("create_tuple_iterator", "create_dict_iterator"):
            replace(Dataset, name, self._iterator)
        self.places.install(self.patches)

    def uninstall(self) -> None:
        self.is_enabled = False
        self.patches.undo()

    # Differentiated functions -----------------------------------------------------------------------------------------

    def _forward(self, original: Any) -> Any:
        def forward(fn: Any, sens_param: bool, *args: Any, **kwargs: Any) -> Any:
            attempt = self.attempt
            if (attempt is None and not self.is_enabled) or self.depth:
                return original(fn, sens_param, *args, **kwargs)
            if attempt is not None and attempt.tracer is not None:
                attempt.tracer.phase, attempt.tracer.is_by_hand = "forward", False
            if attempt is not None and attempt.change is not None:
                data, rest = (args[:-1], args[-1:]) if sens_param and "sens" not in kwargs else (args, ())
                args = (*attempt.change(data), *rest)
            elif attempt is None:
                self.given = given_to(fn, args[:-1] if sens_param and "sens" not in kwargs else args)
            self.unscaled = None
            self.depth += 1
            try:
                run_args, out = original(fn, sens_param, *args, **kwargs)
            finally:
                self.depth -= 1
            loss = out[0] if isinstance(out, (tuple, list)) and out else out
            if is_loss(loss):
                if attempt is not None:
                    attempt.on_loss(self.unscaled if self.unscaled is not None else loss, loss)
                else:
                    self._look_at_loss(self.unscaled if self.unscaled is not None else loss)
            return run_args, out

        return forward

    def _look_at_loss(self, loss: Any) -> None:
        array = array_of(loss)
        value = float(array.sum())
        self.withholds = False
        self.told = Told(loss_bad=not math.isfinite(value) and not all_finite(array), loss=value)
        self.has_loss = True
        self.n_validated = 0

    def _backward(self, original: Any) -> Any:
        def backward(fn: Any, grad_op: Any, weights: Any, *args: Any) -> Any:
            attempt = self.attempt
            if (attempt is None and not self.is_enabled) or self.depth:
                return original(fn, grad_op, weights, *args)
            if self.on_first_gradient is not None:
                self.on_first_gradient()
                self.on_first_gradient = None
            if attempt is not None and attempt.tracer is not None:
                attempt.tracer.phase = "backward"
            self.depth += 1
            try:
                result = original(fn, grad_op, weights, *args)
            finally:
                self.depth -= 1
                if attempt is not None and attempt.tracer is not None:
                    attempt.tracer.phase = "forward"
            named = _named(weights, result)
            if attempt is None and self.has_loss:
                # Told now: between a forward and its backward pass the executor bears no other step.
                self.has_loss = False
                self.on_loss(self.told)
            if attempt is None:
                for parameter in weights or () if isinstance(weights, (tuple, list)) else ():
                    self.weights.setdefault(id(parameter), parameter)
            if not self.optimizers and named:
                # The script updates by hand: what that makes is looked at when the iteration ends.
                self._gradients(named, None)
                if attempt is None:
                    self._keep_before()
                elif attempt.tracer is not None:
                    attempt.tracer.phase, attempt.tracer.is_by_hand = "optimizer", True
            return result

        return backward

    def _scale(self, original: Any) -> Any:
        def scale(scaler: Any, inputs: Any) -> Any:
            tensors = list(tensors_in(inputs))
            if len(tensors) == 1 and is_loss(tensors[0]) and context._get_mode() != context.GRAPH_MODE:
                self.unscaled = tensors[0]
            return original(scaler, inputs)

        return like(scale, original)

    # Optimizers -------------------------------------------------------------------------------------------------------

    def _optimizer_call(self, original: Any) -> Any:
        def __call__(optimizer: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            attempt = self.attempt
            if attempt is None and not self.is_enabled:
                return original(optimizer, *args, **kwargs)
            if attempt is not None and attempt.tracer is not None:
                attempt.tracer.phase = "optimizer"
            try:
                gradients = args[0] if args else kwargs.get("gradients", ())
                named = _named(optimizer.parameters, gradients)
                if self._gradients(named, optimizer):
                    return ms.Tensor(True)
                if attempt is not None:
                    if attempt.clip is not None:
                        args = (attempt.clipped(gradients), *args[1:])
                    return original(optimizer, *args, **kwargs)
                self._keep_before()
                result = original(optimizer, *args, **kwargs)
                self._after_update(optimizer.parameters)
                return result
            finally:
                if attempt is not None and attempt.tracer is not None:
                    attempt.tracer.phase = "forward"

        return like(__call__, original)

    def _gradients(self, named: list[tuple[str, Any]], optimizer: Any) -> bool:
        attempt = self.attempt
        if attempt is not None:
            attempt.on_gradients([(name, array_of(g)) for name, g in named])
            return False
        if self.withholds:
            self.withholds = False
            return True
        squared, bad = 0.0, None
        norms: dict[str, float] = {}
        for name, gradient in named:
            array = array_of(gradient)
            flat = array.reshape(-1)
            if flat.dtype == np.float16:
                flat = flat.astype(np.float32)
            with np.errstate(all="ignore"):
                part = float(np.dot(flat, flat))
            squared += part
            norms[name] = math.sqrt(part) if part >= 0 else part
            if bad is None and not math.isfinite(part) and not all_finite(array):
                bad = name
        told = self.told
        told.gradient_bad = bad is not None
        told.gradient = bad or "gradient"
        told.grad_norms = norms
        told.grad_norm = math.sqrt(squared) if math.isfinite(squared) else math.inf
        self.on_gradients(told, optimizer)
        return told.gradient_bad

    def _keep_before(self) -> None:
        self.before = None
        if self._copies.is_due():
            self._copies.begin()
            parameters = self.changeable()
            if sum(p.size * p.itemsize for p in parameters) <= _MAX_COPY:
                self.before = SavedParameters(parameters)
            self._copies.end()

    def after_hand(self) -> None:
        """An iteration has ended whose update, if it made one, the script has written out."""
        if not self.optimizers and self.before is not None:
            self._after_update(self.trained())

    def _after_update(self, parameters: Iterable[Any]) -> None:
        if self._looks.is_due():
            self._looks.begin()
            bad = next((p for p in parameters if is_floating(p) and not all_finite(array_of(p))), None)
            self._looks.end()
            if bad is not None:
                self.on_update(bad)

    # Compiled steps ---------------------------------------------------------------------------------------------------

    def _jit_call(self, original: Any) -> Any:
        def __call__(executor: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            if self.attempt is not None:
                # A replay is done operation by operation.
                return executor.fn(*args, **kwargs)
            if not self.is_enabled or self.depth or not self._is_step(executor.fn):
                return original(executor, *args, **kwargs)
            self.before = None
            if executor.fn.__name__ != "after_grad":
                self._keep_before_compiled()
            self.depth += 1
            try:
                result = original(executor, *args, **kwargs)
            finally:
                self.depth -= 1
            loss = next((t for t in tensors_in(result) if is_loss(t)), None)
            if loss is not None:
                value = float(array_of(loss).sum())
                self.given = given_to(executor.fn, args)
                self.told = Told(loss_bad=not math.isfinite(value), loss=value)
                self.on_compiled(self.told, executor)
            return result

        return like(__call__, original)

    def _keep_before_compiled(self) -> None:
        parameters = self.changeable()
        if parameters and sum(p.size * p.itemsize for p in parameters) <= _MAX_COPY:
            self.before = SavedParameters(parameters)

    @staticmethod
    def _is_step(function: Any) -> bool:
        """Whether a compiled function is a step: the library's own gradient, or the user's that speaks of one."""
        plain = getattr(function, "__func__", function)
        code = getattr(plain, "__code__", None)
        if code is None or code.co_name == "after_grad":
            return code is not None
        names = (code.co_name, *code.co_names, *code.co_freevars)
        return is_user_file(code.co_filename) and any(_SPEAKS_OF_STEPS.search(name) for name in names)

    def _step_call(self, original: Any) -> Any:
        def __call__(cell: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            if self.attempt is not None or not self.is_enabled or self.cell is not None:
                return original(cell, *args, **kwargs)
            self.before_cell(cell, args)
            self.cell = (cell, args)
            self.told = Told()
            try:
                if context._get_mode() == context.GRAPH_MODE:
                    return self._graph_step(original, cell, args, kwargs)
                return original(cell, *args, **kwargs)
            finally:
                self.cell = None

        return like(__call__, original)

    def _graph_step(self, original: Any, cell: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        guarded = self.guards.of(cell) if not kwargs else None
        if guarded is not None:
            told: Told | None
            result, told = self.guards.run(guarded, args)
        else:
            self._keep_before_compiled()
            result = original(cell, *args, **kwargs)
            loss = next((t for t in tensors_in(result) if is_loss(t)), None)
            value = float(array_of(loss).sum()) if loss is not None else math.nan
            told = (
                Told(loss_bad=loss is not None and not math.isfinite(value), loss=value) if loss is not None else None
            )
        self.after_cell(cell, args, told)
        return result

    def _inside_model(self, original: Any) -> Any:
        def process(model: Any, *args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            self.run_of_model = next((value for value in given if hasattr(value, "train_network")), None)
            self.know_cells(model._train_network, model._optimizer)
            self.is_in_model += 1
            try:
                return original(model, *args, **kwargs)
            finally:
                self.is_in_model -= 1
                self.run_of_model = None

        return like(process, original)

    def epoch(self) -> int | None:
        """Return the epoch, from 0, of the `Model.train` that runs; None outside of one."""
        number = getattr(self.run_of_model, "cur_epoch_num", None)
        return int(number) - 1 if isinstance(number, int) else None

    # Data -------------------------------------------------------------------------------------------------------------

    def _iterator(self, original: Any) -> Any:
        def create(dataset: Any, *args: Any, **kwargs: Any) -> Any:
            if self.is_enabled and self.attempt is None and not any(known is dataset for known in self.datasets):
                self.datasets = [dataset, *self.datasets][:4]
            return original(dataset, *args, **kwargs)

        return like(create, original)


def is_loss(value: Any) -> bool:
    """Whether a value is a loss: one floating-point number, or one for each sample."""
    return isinstance(value, ms.Tensor) and is_floating(value) and (value.size == 1 or len(value.shape) <= 1)


def _named(weights: Any, result: Any) -> list[tuple[str, Any]]:
    """Return gradients by their parameters' names; those of inputs come first in what a gradient function gives."""
    names = [str(p.name) for p in weights] if isinstance(weights, (tuple, list)) else []
    gradients = [g for g in tensors_in(result) if is_floating(g)]
    if len(gradients) == len(names):
        return list(zip(names, gradients))
    offset = len(gradients) - len(names)
    return [(names[i - offset] if 0 <= i - offset < len(names) else "input", g) for i, g in enumerate(gradients)]


def install(watch: "Watch") -> None:
    """Look at the loss of each validation batch, and at the numbers that tensors are read as."""
    watch.patches.replace(nn.WithEvalCell, "__call__", lambda original: _evaluating(original, watch))
    for name in _READS:
        watch.patches.replace(ms.Tensor, name, lambda original: _reading(original, watch))


def _evaluating(original: Any, watch: "Watch") -> Any:
    @functools.wraps(original)
    def __call__(cell: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        result = original(cell, *args, **kwargs)
        loss = next((t for t in tensors_in(result) if is_floating(t)), None)
        if loss is None or loss.size != 1 or (watch.attempt is None and not watch.is_enabled):
            return result
        if watch.attempt is not None:
            watch.attempt.on_validation(loss)
        else:
            watch.n_validated += 1
            value = float(array_of(loss).sum())
            if not math.isfinite(value):
                watch.on_validation(value, CellClosure(cell, args, "validation"))
        return result

    return __call__


def _reading(original: Any, watch: "Watch") -> Any:
    @functools.wraps(original)
    def read(tensor: Any, *args: Any) -> Any:
        if (watch.attempt is not None or watch.is_enabled) and not watch.depth and tensor.size == 1:
            _look(tensor, watch, sys._getframe(1))
        return original(tensor, *args)

    return read


def _look(tensor: Any, watch: "Watch", frame: FrameType) -> None:
    # The line first: to look at the number is to read the tensor, from a line of this file.
    if not is_floating(tensor) or isinstance(tensor, ms.Parameter) or not speaks_of_loss(frame):
        return
    if watch.attempt is not None:
        if watch.attempt.is_validation:
            watch.attempt.on_validation(tensor)
        return
    value = float(array_of(tensor).sum())
    if is_bad_loss(value, frame):
        watch.on_validation(value, None)
