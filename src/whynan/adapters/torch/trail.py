"""What the watch follows besides losses: numbers by name, gradient scalers, statistics that become non-finite.

The numbers of the last steps (gradients and updates by layer, terms of the loss) stand in where these can't be run once
more (lookback.py): the copies of a detector would be too large, the run goes on. Gradient norms by tensor fall off the
check that is made in any case; the rest keeps to a budget of time.
"""

import functools
import math
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch.elements import dense, kind_of
from whynan.adapters.torch.frames import live_user_frame, sounds_like_loss
from whynan.adapters.torch.late import works_ahead
from whynan.adapters.torch.sites import Event, Moment
from whynan.adapters.torch.snapshot import KnownState
from whynan.adapters.torch.storages import values_of
from whynan.records import LookBack
from whynan.snapshot import frame_values
from whynan.watching import MOST_STEPS, Budget, look_back

if TYPE_CHECKING:
    from whynan.adapters.torch.watch import Watch

_COLLAPSED = 1.0
_MANY_SKIPS = 10
BY_HAND = "after an update by hand"


def layers_of(roots: dict[str, Any]) -> dict[str, Any]:
    """Return the modules with parameters of their own, by their dotted names, in the model's order."""
    found: dict[str, Any] = {}
    for root in roots.values():
        for path, module in root.named_modules():
            if any(True for _ in own(module)):
                found.setdefault(path or type(module).__name__, module)
    return found


def own(module: Any) -> Iterator[Any]:
    """Yield a module's own trained parameters, not those of modules inside it."""
    return (p for p in module._parameters.values() if p is not None and p.requires_grad)


_MOST = 8
_DEPTH = 3


def terms_now(is_a_term: Callable[[str], bool] = sounds_like_loss) -> dict[str, float]:
    """Return the terms by the names that the script gives them: a dictionary of losses, else variables called so.

    `is_a_term` says of a variable's name whether it is called so.
    Each is a number that is copied from its device: this is for a few times a second and not for every step.
    """
    return {name: _number(value) for name, value in _term_tensors(is_a_term).items()}


def _term_tensors(is_a_term: Callable[[str], bool]) -> dict[str, Any]:
    frame = live_user_frame(sys._getframe(1))
    for _ in range(_DEPTH):
        if frame is None:
            break
        values = frame_values(frame) or {}
        for value in values.values():
            if isinstance(value, dict) and 2 <= len(value) <= 32 and all(map(_is_scalar, value.values())):
                return _first(value)
        named = {name: value for name, value in values.items() if is_a_term(name) and _is_scalar(value)}
        if len(named) > 2:  # the whole and its parts
            return _first(named)
        frame = live_user_frame(frame.f_back)
    return {}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()


def _first(values: dict[Any, Any]) -> dict[str, Any]:
    return {str(k): v.detach() for k, v in list(values.items())[:_MOST]}


def _number(value: Any) -> float:
    return float(torch._C.TensorBase.item(value))


_SHARE = 0.0004
_MOST_TENSORS = 48
_PART = 4096
"""Weights of a tensor whose change is measured, spread over its rows."""


class Trail:
    """The last steps as they were watched; what is read a second time for a replay is not told to it."""

    def __init__(self, known: KnownState) -> None:
        self.known = known
        self._gradients: deque[tuple[int, tuple[bytes, list[float]]]] = deque(maxlen=MOST_STEPS)
        self._updates: deque[tuple[int, tuple[list[int], Any]]] = deque(maxlen=MOST_STEPS)
        self._terms: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MOST_STEPS)
        self._budgets = (Budget(_SHARE, n_first=2), Budget(_SHARE, n_first=2))
        self._before: list[tuple[Any, Any]] | None = None
        self._spent = 0.0

    def note_gradients(self, step: int, parameters: list[Any], norms: list[float]) -> None:
        if norms:
            have = b"" if len(norms) == len(parameters) else bytes([p.grad is not None for p in parameters])
            _put(self._gradients, step, (have, norms))

    def note_terms(self, step: int) -> None:
        """Keep the loss terms by the names that the script's frames give them, where time allows."""
        budget = self._budgets[0]
        if budget.is_due():
            budget.begin()
            found = _term_tensors(lambda name: True)  # which of them are terms is known when the loss has been traced
            terms = {name: v.clone() if works_ahead(v) else _number(v) for name, v in found.items()}
            if terms:
                _put(self._terms, step, terms)
            budget.end()

    def terms_before(self, step: int) -> tuple[dict[str, float], ...]:
        """Return the terms of the last few steps before one that were all finite."""
        rows = [row for at, row in self._terms if at < step and all(map(math.isfinite, row.values()))]
        return tuple(rows[-3:])

    def before_update(self, parameters: Sequence[Any]) -> None:
        """Copy a part of each weight, where time allows."""
        budget = self._budgets[1]
        if budget.is_due():
            budget.begin()
            matrices = [p for p in parameters if p.dim() > 1 and p.grad is not None and p.grad.layout is torch.strided]
            matrices = matrices[:: max(1, math.ceil(len(matrices) / _MOST_TENSORS))]
            self._before = [(p, _part(p).clone()) for p in matrices]
            self._spent = budget.spent()

    def after_update(self, step: int) -> None:
        """Keep the norms of the parts' changes, and of the parts."""
        if self._before is None:
            return
        pairs, self._before = self._before, None
        self._budgets[1].begin(self._spent)
        if pairs:
            old = [copy for _, copy in pairs]
            moved = torch._foreach_sub([_part(p) for p, _ in pairs], old)
            norms = torch.stack([*torch._foreach_norm(moved), *torch._foreach_norm(old)])  # read when asked for
            _put(self._updates, step, ([id(p) for p, _ in pairs], norms))
        self._budgets[1].end()

    def look_back(self, last: int, terms: dict[str, float], activation: dict[str, float], why: str) -> LookBack | None:
        """Return the steps up to `last`, of which loss terms and activations are known; None where all is too little.

        `why` says why no other step was run once more.
        """
        gradients = {step: row for step, row in self._gradients if step <= last}
        updates = {step: row for step, row in self._updates if step <= last}
        said = {step: {name: float(v) for name, v in row.items()} for step, row in self._terms if step <= last}
        layers = layers_of(self.known.roots())
        norms = {step: self._by_layer(layers, *row) for step, row in gradients.items()}
        ratios = {step: _ratios(layers, *row) for step, row in updates.items()}
        tables = (norms, ratios, {last: activation} if activation else {})
        words = f"updates from about {_PART} weights of each matrix or kernel"
        return look_back(last, tables, layers, said, terms, words, why)

    def _by_layer(self, layers: dict[str, Any], have: bytes, norms: list[float]) -> dict[str, float]:
        parameters = self.known.parameters()
        present = [p for p, is_there in zip(parameters, have) if is_there] if have else parameters
        read = dense(present)
        if len(read) != len(norms) or (have and len(have) != len(parameters)):
            return {}
        norm_of = {id(p): norm for p, norm in zip(read, norms)}
        there = {id(p) for p in present}
        found = {}
        for name, module in layers.items():
            wanted = [id(p) for p in own(module) if id(p) in there]
            if wanted and all(key in norm_of for key in wanted):
                found[name] = math.hypot(*(norm_of[key] for key in wanted))
        return found


def _ratios(layers: dict[str, Any], keys: list[int], norms: Any) -> dict[str, float]:
    values = norms.tolist()
    pairs = dict(zip(keys, zip(values, values[len(keys) :])))
    found = {}
    for name, module in layers.items():
        parts = [pairs[id(p)] for p in own(module) if id(p) in pairs]
        before = math.hypot(*(old for _, old in parts))
        # A table's rows that no batch had stay as they are: a part of them tells nothing.
        if before > 0 and not isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            found[name] = math.hypot(*(moved for moved, _ in parts)) / before
    return found


def _put(rows: deque[tuple[int, Any]], step: int, row: Any) -> None:
    while rows and rows[-1][0] >= step:
        rows.pop()  # read again, or undone by a recovery
    rows.append((step, row))


def _part(parameter: Any) -> Any:
    rows = max(1, _PART * len(parameter) // max(1, parameter.numel()))
    return parameter.detach()[:: math.ceil(len(parameter) / rows)]


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
        if self.watch.may_ask([loss]):
            self.watch.ask_loss(loss)
            return
        value = float(torch._C.TensorBase.item(loss.detach()))
        self.watch.last_loss = value
        if not math.isfinite(value):
            name = self.watch.name_of(loss)
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
                self.watch._guarded(self.watch.hear, self.watch.n_before_gradients)
            try:
                return original(scaler, optimizer, *args, **kwargs)
            finally:
                self._finding = False

        return step

    def _wrap_update(self, original: Any) -> Any:
        @functools.wraps(original)
        def update(scaler: Any, *args: Any, **kwargs: Any) -> Any:
            self._holds_scaled = False
            scale = getattr(scaler, "_scale", None)
            if scale is not None and not self.watch._is_off() and self.watch.may_ask([scale]):
                before = scale.clone()
                original(scaler, *args, **kwargs)
                self._ask_scale(before, scaler._scale)
                return
            known = _scale_of(scaler)
            original(scaler, *args, **kwargs)
            if not self.watch._is_off() and scaler.is_enabled():
                self.watch._guarded(self._look_at_scale, known, _scale_of(scaler))

        return update

    def _ask_scale(self, before: Any, after: Any) -> None:
        moment = self.watch.now()
        self.watch.ask(
            lambda: torch.stack([before.reshape(()), after.reshape(())]).float(),
            lambda values: self._look_at_scale(values[0], values[1], moment),
        )

    def _look_at_scale(self, before: float | None, after: float | None, moment: Moment | None = None) -> None:
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
                self.watch._tell_gradient(broken, [p.grad for p in broken], "the gradient scale collapsed", moment)


def _scale_of(scaler: Any) -> float | None:
    scale = getattr(scaler, "_scale", None)
    return None if scale is None else float(torch._C.TensorBase.item(scale))
