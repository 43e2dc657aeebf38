"""Gradient scalers: the loss before scaling, the steps skipped while the scale is sought, a scale that collapses."""

import functools
import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch.elements import kind_of
from whynan.adapters.torch.sites import Event
from whynan.adapters.torch.storages import values_of

if TYPE_CHECKING:
    from whynan.adapters.torch.watch import Watch

_COLLAPSED = 1.0
_MANY_SKIPS = 10


class ScalerWatch:
    """Follows `torch.amp.GradScaler`. A step that it skips is its way to find a scale, and no symptom."""

    def __init__(self, watch: "Watch") -> None:
        self.watch = watch
        self.scale: float | None = None
        self.n_skipped = 0
        self.n_skipped_in_all = 0
        self._scaled: weakref.WeakSet[Any] = weakref.WeakSet()
        self._scaled_ids: dict[int, Any] = {}
        self._finding = False
        self._holds_scaled = False
        """Whether gradients are there that are still multiplied by the scale."""
        self.clipped_scaled = False

    def install(self, wrap: Callable[[Any, str, Callable[..., Any]], None]) -> None:
        wrap(torch.amp.GradScaler, "scale", self._wrap_scale)
        wrap(torch.amp.GradScaler, "step", self._wrap_step)
        wrap(torch.amp.GradScaler, "update", self._wrap_update)
        wrap(torch.amp.GradScaler, "unscale_", self._wrap_unscale)
        for name in ("clip_grad_norm_", "clip_grad_value_"):
            wrap(torch.nn.utils, name, self._wrap_clip)

    def is_scaled(self, tensor: Any) -> bool:
        kept = self._scaled_ids.get(id(tensor))
        return kept is not None and kept() is tensor

    def is_finding_scale(self) -> bool:
        return self._finding

    def _wrap_scale(self, original: Any) -> Any:
        @functools.wraps(original)
        def scale(scaler: Any, outputs: Any) -> Any:
            if self.watch._is_off() or not scaler.is_enabled():
                return original(scaler, outputs)
            if isinstance(outputs, torch.Tensor):
                self.watch._guarded(self._look_at_loss, outputs)
            result = original(scaler, outputs)
            self._holds_scaled = True
            self.scale = self.scale or _scale_of(scaler)
            if isinstance(result, torch.Tensor):
                self._scaled_ids = {id(result): weakref.ref(result)}
            return result

        return scale

    def _look_at_loss(self, loss: Any) -> None:
        self.watch.n_events += 1
        if loss.numel() != 1 or not loss.is_floating_point():
            return
        value = float(torch._C.TensorBase.item(loss.detach()))
        self.watch.last_loss = value
        if not math.isfinite(value):
            name = self.watch._name_in_frame(loss)
            self.watch.notify(Event("loss", "backward", [loss], name, kind_of(value) or "nan"))

    def _wrap_unscale(self, original: Any) -> Any:
        @functools.wraps(original)
        def unscale_(scaler: Any, optimizer: Any) -> Any:
            self._holds_scaled = False
            return original(scaler, optimizer)

        return unscale_

    def _wrap_clip(self, original: Any) -> Any:
        @functools.wraps(original)
        def clip(*args: Any, **kwargs: Any) -> Any:
            if self._holds_scaled and not self.clipped_scaled and not self.watch._is_off():
                self.clipped_scaled = True
                self.watch.on_remark(
                    f"step {self.watch.n_steps}: {original.__name__} clips gradients that are multiplied by the scale "
                    f"{self.scale or 0:g}: call scaler.unscale_(optimizer) before it"
                )
            return original(*args, **kwargs)

        return clip

    def _wrap_step(self, original: Any) -> Any:
        @functools.wraps(original)
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            self._finding = True
            if not self.watch._is_off():
                self.watch._guarded(self.watch.ranks.before_update)
            try:
                return original(scaler, optimizer, *args, **kwargs)
            finally:
                self._finding = False

        return step

    def _wrap_update(self, original: Any) -> Any:
        @functools.wraps(original)
        def update(scaler: Any, *args: Any, **kwargs: Any) -> Any:
            before = _scale_of(scaler)
            self._holds_scaled = False
            original(scaler, *args, **kwargs)
            if not self.watch._is_off() and scaler.is_enabled():
                self.watch._guarded(self._look_at_scale, before, _scale_of(scaler))

        return update

    def _look_at_scale(self, before: float | None, after: float | None) -> None:
        self.scale = after
        if before is None or after is None:
            return
        if after < before:
            self.n_skipped += 1
            self.n_skipped_in_all += 1
        else:
            self.n_skipped = 0
        if self.n_skipped >= _MANY_SKIPS and after < _COLLAPSED:
            broken = [
                p
                for p in self.watch.known.parameters()
                if p.grad is not None and not torch.isfinite(values_of(p.grad)).all()
            ]
            if broken:
                self.watch._tell_gradient(broken, [p.grad for p in broken], "the gradient scale collapsed")


def _scale_of(scaler: Any) -> float | None:
    scale = getattr(scaler, "_scale", None)
    return None if scale is None else float(torch._C.TensorBase.item(scale))
