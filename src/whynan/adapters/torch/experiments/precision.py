"""full-precision: one operation, or the whole step, in the next wider dtype."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from whynan.adapters.torch.experiments.guarded import Place
from whynan.adapters.torch.frames import op_frame

_HALF = (torch.float16, torch.bfloat16)
_CASTS = {"half": torch.float32, "bfloat16": torch.float32}


class WiderOp(TorchFunctionMode):  # type: ignore[misc]
    """While entered, the operations of one line compute in a wider dtype; their result stays in it."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.n_applied = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import sys

        kwargs = kwargs or {}
        if not self.place(op_frame(sys._getframe(1))):
            return func(*args, **kwargs)
        wider = [0]

        def widened(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64:
                wider[0] += 1
                return value.to(torch.float32 if value.dtype in _HALF else torch.float64)
            if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
                return type(value)(widened(item) for item in value)
            return value

        name = str(getattr(func, "__name__", ""))
        if name.startswith("__get") or name.endswith("_") or name in ("backward", "to", "half", "float"):
            return func(*args, **kwargs)
        with _no_autocast():
            result = func(*widened(tuple(args)), **{key: widened(value) for key, value in kwargs.items()})
        self.n_applied += bool(wider[0])
        return result


def _no_autocast() -> Any:
    return torch.amp.autocast_mode.autocast("cpu", enabled=False)


class WholeStep:
    """While entered, half precision is single precision: parameters, casts, autocast, tensors that are made."""

    def __init__(self, parameters: list[Any], buffers: list[Any], optimizers: list[Any]) -> None:
        self.tensors = [t for t in (*parameters, *buffers) if t.dtype in _HALF]
        self.optimizers = optimizers
        self._mode = _Upcast()
        self._saved: list[tuple[Any, Any, Any]] = []
        self._states: list[tuple[dict[str, Any], str, Any]] = []
        self._enter = torch.autocast.__enter__
        self.n_applied = 0

    def __enter__(self) -> None:
        for tensor in self.tensors:
            grad = tensor.grad if tensor.is_leaf else None
            self._saved.append((tensor, tensor.data, grad))
            if grad is not None:
                tensor.grad = None
            tensor.data = tensor.data.float()
            if grad is not None:
                tensor.grad = grad.float()
        for optimizer in self.optimizers:
            for values in optimizer.state.values():
                for key, value in values.items():
                    if isinstance(value, torch.Tensor) and value.dtype in _HALF:
                        self._states.append((values, key, value))
                        values[key] = value.float()
        self.n_applied = len(self._saved)
        original = self._enter
        owner = self

        def enter(context: Any) -> Any:
            owner.n_applied += bool(context._enabled)
            context._enabled = False
            return original(context)

        torch.autocast.__enter__ = enter
        self._mode.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._mode.__exit__(None, None, None)
        torch.autocast.__enter__ = self._enter
        for tensor, data, grad in self._saved:
            tensor.grad = None
            tensor.data = data
            tensor.grad = grad
        for values, key, value in self._states:
            values[key] = value
        self.n_applied += self._mode.n_applied
        self._saved, self._states = [], []


class _Upcast(TorchFunctionMode):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.n_applied = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", ""))
        if name in _CASTS and args and isinstance(args[0], torch.Tensor):
            self.n_applied += 1
            return args[0].float()
        return func(*self._wide(tuple(args)), **{key: self._wide(value) for key, value in kwargs.items()})

    def _wide(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            if value in _HALF:
                self.n_applied += 1
                return torch.float32
            return value
        if isinstance(value, torch.Tensor) and value.dtype in _HALF:
            self.n_applied += 1
            return value.float()
        if type(value) in (list, tuple):
            return type(value)(self._wide(item) for item in value)
        return value
