"""What the review asks about besides the graph: modules, optimizers, scaler, gradients, places, the first losses."""

import gc
import linecache
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from whynan.adapters.torch.frames import user_frames
from whynan.check.graph import Measured, Place
from whynan.check.review import LayerFacts, OptimizerFacts
from whynan.launch.host import is_user_file


def place_of(frame: Any) -> Place:
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
        if _PARAMETRIZATIONS in file or _KERAS_LAYERS in file:
            return True
        if "site-packages" in file and _TORCH not in file and _KERAS not in file:
            return True
        frame = frame.f_back
    return False


_TORCH = f"site-packages{os.sep}torch{os.sep}"
_PARAMETRIZATIONS = f"{_TORCH}nn{os.sep}utils{os.sep}"
"""Spectral and weight normalisation: the library's own arithmetic, with its own care."""
_KERAS = f"site-packages{os.sep}keras{os.sep}"
"""Its operations are the framework's own under another name."""
_KERAS_LAYERS = f"{_KERAS}src{os.sep}layers{os.sep}"


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
    # Between values of both signs it matters whether 0 is among them; how near to it they come, where there are few.
    least = lo if lo > 0 else -hi if hi < 0 else _least(x)
    return Measured(lo, hi, least, n_bad), minus


def _least(x: Any) -> float:
    if x.numel() <= _FEW:
        return float(x.abs().min())
    return 0.0 if int(torch.count_nonzero(x)) < x.numel() else _NOT_ZERO


def is_finite(tensor: Any) -> bool:
    """Whether all elements are finite, in one pass that allocates nothing."""
    if tensor.is_complex():
        return bool(torch.isfinite(tensor).all())
    lo, hi = torch.aminmax(tensor)  # NaN among the elements comes out as NaN
    return math.isfinite(float(lo)) and math.isfinite(float(hi))


_FEW = 4096
_NOT_ZERO = 1e-30
"""Stands for the smallest of many absolute values, none of which is 0."""


def dtype_of(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def pointer_of(tensor: Any) -> int:
    try:
        return int(tensor.untyped_storage().data_ptr()) or id(tensor)
    except Exception:
        return id(tensor)


def key_of(tensor: Any) -> tuple[Any, ...]:
    return (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def weak(tensor: Any) -> Any:
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except Exception:
        return None


def is_expired(reference: Any) -> bool:
    return reference is not None and reference.expired()


class Facts:
    def __init__(self, host: Any) -> None:
        self.host = host
        self.roots: list[Any] = []
        self.optimizers: dict[int, Any] = {}
        self.optimizer_facts: dict[int, OptimizerFacts] = {}
        self.losses: list[float] = []
        self.layers: dict[str, LayerFacts] = {}
        self.gradients: dict[str, float] = {}
        self.is_scaled = False
        self.is_unscaled = False
        self.clipped_before_unscale: Place | None = None
        self.n_clipped = 0
        self.place: Place | None = None
        """The user's line under which the first backward pass ran."""
        self._names: dict[int, str] = {}
        self._handles: list[Any] = []

    def attach(self, swap: Callable[[Any, str, Any], Any]) -> None:
        scaler_type = torch.amp.GradScaler
        scale, unscale, clip = scaler_type.scale, scaler_type.unscale_, torch.nn.utils.clip_grad_norm_

        def scaled(scaler: Any, outputs: Any) -> Any:
            self.is_scaled = self.is_scaled or bool(scaler.is_enabled())
            self.is_unscaled = False
            return scale(scaler, outputs)

        def unscaled(scaler: Any, optimizer: Any) -> Any:
            self.is_unscaled = True
            return unscale(scaler, optimizer)

        def clipped(*args: Any, **kwargs: Any) -> Any:
            self.n_clipped += 1
            if self.is_scaled and not self.is_unscaled and self.clipped_before_unscale is None:
                self.clipped_before_unscale = _place(sys._getframe(1))
            return clip(*args, **kwargs)

        swap(scaler_type, "scale", scaled)
        swap(scaler_type, "unscale_", unscaled)
        swap(torch.nn.utils, "clip_grad_norm_", clipped)

    # Modules ---------------------------------------------------------------------------------------------------------

    def find_modules(self) -> None:
        """Find the models: modules that no other module holds."""
        if self.roots:
            return
        modules = [
            obj for obj in gc.get_objects() if isinstance(type(obj), type) and issubclass(type(obj), torch.nn.Module)
        ]
        inner = {id(child) for module in modules for child in module.__dict__.get("_modules", {}).values()}
        self.roots = [module for module in modules if id(module) not in inner and "_parameters" in module.__dict__]

    def paths(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for root in self.roots:
            for path, module in root.named_modules():
                found.setdefault(id(module), path)
        return found

    def names(self) -> tuple[dict[int, str], dict[int, str]]:
        parameters: dict[int, str] = {}
        buffers: dict[int, str] = {}
        for root in self.roots:
            for name, tensor in root.named_parameters():
                if tensor.requires_grad:
                    parameters[int(tensor.untyped_storage().data_ptr())] = name
                    self._names[id(tensor)] = name
            for name, tensor in root.named_buffers():
                buffers[int(tensor.untyped_storage().data_ptr())] = name
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                for number, tensor in enumerate(group["params"]):
                    parameters.setdefault(int(tensor.untyped_storage().data_ptr()), f"parameter {number}")
        return parameters, buffers

    def gradients_at(self) -> set[int]:
        return {
            pointer_of(tensor.grad) for root in self.roots for tensor in root.parameters() if tensor.grad is not None
        }

    # Steps -----------------------------------------------------------------------------------------------------------

    def first_losses(self, roots: Any) -> None:
        if self.place is None:
            self.place = _place(sys._getframe(1))
        for root in roots:
            if isinstance(root, torch.Tensor) and root.numel() == 1 and len(self.losses) < 4:
                self.losses.append(float(root.detach()))

    def before_step(self, optimizer: Any) -> None:
        if id(optimizer) in self.optimizers:
            return
        self.optimizers[id(optimizer)] = optimizer
        stack = user_frames(sys._getframe(1))
        groups = optimizer.param_groups
        tensors = [p for group in groups for p in group["params"]]
        with torch.no_grad():
            weights = float(torch.sqrt(sum((p.detach().float() ** 2).sum() for p in tensors))) if tensors else 0.0
            gradients = [p.grad.detach().float() for p in tensors if p.grad is not None and not p.grad.is_sparse]
            norm = float(torch.sqrt(sum((g**2).sum() for g in gradients))) if gradients else 0.0
        self.optimizer_facts[id(optimizer)] = OptimizerFacts(
            kind=type(optimizer).__name__,
            place=place_of(stack[0]) if stack else None,
            rates=tuple(float(g.get("lr", 0.0)) for g in groups),
            eps=tuple(float(g["eps"]) for g in groups if isinstance(g.get("eps"), (int, float))),
            decays=tuple(float(g.get("weight_decay", 0.0) or 0.0) for g in groups),
            momentum=max((float(g.get("momentum", 0.0) or 0.0) for g in groups), default=0.0),
            dtypes=tuple(sorted({str(p.dtype).removeprefix("torch.") for p in tensors})),
            weight_norm=weights,
            gradient_norm=norm,
            n_parameters=sum(p.numel() for p in tensors),
            n_without_gradient=sum(p.grad is None for p in tensors),
        )

    def has_failed(self) -> bool:
        if any(not math.isfinite(loss) for loss in self.losses):
            return True
        tensors = [
            p for optimizer in self.optimizers.values() for group in optimizer.param_groups for p in group["params"]
        ]
        return any(not is_finite(p.detach()) for p in tensors if p.is_floating_point() and p.numel())

    def after_step(self, optimizer: Any) -> None:
        facts = self.optimizer_facts.get(id(optimizer))
        if facts is not None:
            facts.later_rates.append(float(optimizer.param_groups[0].get("lr", 0.0)))

    def iteration_ended(self) -> None:
        if self.host.n_iterations == 1:
            self._watch_layers()
        elif self._handles:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def _watch_layers(self) -> None:
        """Look at each layer's output in the next step."""
        self.find_modules()
        for root in self.roots:
            for path, module in root.named_modules():
                if not list(module.children()) and not type(module).__module__.startswith("keras."):
                    self._handles.append(module.register_forward_hook(self._layer_hook(path or type(module).__name__)))

        keras = sys.modules.get("keras")
        if keras is not None:
            self._handles.append(self._watch_keras(keras))

    def _watch_keras(self, keras: Any) -> Any:
        original = keras.layers.Layer.__call__

        def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
            output = original(layer, *args, **kwargs)
            if not getattr(layer, "_layers", None):
                name = getattr(getattr(layer, "activation", None), "__name__", "").title().replace("Relu", "ReLU")
                kind = name if name in ("ReLU", "Tanh", "Sigmoid") else type(layer).__name__
                self._look(layer.name, kind, output)
            return output

        keras.layers.Layer.__call__ = called
        return _Undo(lambda: setattr(keras.layers.Layer, "__call__", original))

    def _layer_hook(self, path: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            self._look(path, type(module).__name__, output)

        return hook

    def _look(self, path: str, kind: str, output: Any) -> None:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point() or output.numel() < 2:
            return
        recorder = self.host.recorder
        was, recorder.is_muted = recorder.is_muted, True
        try:
            with torch.no_grad():
                x = output.detach()
                wide = torch.float64 if x.dtype == torch.float64 else torch.float32
                rms = float(torch.linalg.vector_norm(x, dtype=wide)) / math.sqrt(x.numel())
                n_zeros = x.numel() - int(torch.count_nonzero(x)) if kind.startswith("ReLU") else 0
                saturated = 0.0
                if kind in ("Tanh", "Sigmoid"):
                    saturated = float(((x > 0.999) | (x < (0.001 if kind == "Sigmoid" else -0.999))).float().mean())
            self.layers[path] = LayerFacts(path, kind, rms, n_zeros / x.numel(), saturated)
        except RuntimeError:
            pass  # a kind of tensor that can't be measured; the script's step goes on
        finally:
            recorder.is_muted = was


@dataclass(frozen=True)
class _Undo:
    """What is taken away as a hook is."""

    remove: Callable[[], None]


def _place(frame: Any) -> Place | None:
    stack = user_frames(frame)
    return place_of(stack[0]) if stack else None
