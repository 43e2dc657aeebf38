"""Remedies that show over several steps: learning rate, warm-up, clipping, initialization, scaling, optimizer's eps."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch.experiments.change import Around, Change
from whynan.diagnosis.remedies.lower_learning_rate import LowerLearningRate
from whynan.records import Evidence
from whynan.torch.clip import clip_by_global_norm

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan

_SCALED = ("lr",)


def lower_learning_rate(plan: "Plan", evidence: Evidence) -> Iterator[Change]:
    """Yield a learning rate divided by 10, then by 100; first a momentum below 1, without which none is low enough."""
    momentum = evidence.optimizer.momentum if evidence.optimizer is not None else None
    if momentum is not None and momentum >= 1:
        around = Around(plan.host.watch, _damped)
        words = f"momentum 0.9 in place of {momentum:g}, so that a step is at most 10 times the learning rate"
        yield Change("lower-learning-rate", words, around, scope="window")
    for divisor in (10, 100):
        factor = 1 / divisor
        change = _rated(plan, "lower-learning-rate", f"learning rate divided by {divisor}", lambda step, f=factor: f)  # type: ignore[misc]
        change.patch = _patch(evidence, 10 * factor) if divisor != 10 else None
        yield change

    for factor in (0.1, 0.01):
        around = Around(plan.host.watch, _nothing, on_returned=_times(factor))
        words = f"updates by hand with gradients times {factor:g}, which is a learning rate so much smaller"
        yield Change("lower-learning-rate", words, around, scope="window")


def _patch(evidence: Evidence, factor: float) -> str | None:
    """Return the line that the remedy proposes, with so much of its learning rate."""
    if not isinstance(evidence, Evidence):
        return None  # of another rank, which writes its own
    rates = tuple(rate * factor for rate in evidence.history.lr)
    optimizer = evidence.optimizer
    if optimizer is not None and optimizer.lr:
        optimizer = replace(optimizer, lr=optimizer.lr * factor)
    scaled = replace(evidence, history=replace(evidence.history, lr=rates), optimizer=optimizer)
    return LowerLearningRate().patch(scaled, "learning-rate-too-high")


def _nothing(optimizer: Any, step: int) -> None:
    pass


def _damped(optimizer: Any, step: int) -> None:
    for group in optimizer.param_groups:
        group["momentum"] = min(group.get("momentum", 0.0), 0.9)


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda gradients: _each(gradients, lambda gradient: gradient * factor)


def _each(gradients: Any, change: Callable[[Any], Any]) -> Any:
    """Return the gradients changed one by one; they stay differentiable."""
    return tuple(None if gradient is None else change(gradient) for gradient in gradients)


def _clipped(gradients: Any, limit: float) -> Any:
    norms = [gradient.square().sum() for gradient in gradients if gradient is not None]
    total = torch.sqrt(torch.stack(norms).sum() + 1e-12) if norms else torch.ones(())
    factor = (limit / total).clamp(max=1.0)
    return _each(gradients, lambda gradient: gradient * factor)


def warmup(plan: "Plan", evidence: Evidence) -> Iterator[Change]:
    """Yield a linear warm-up over four times the steps that the failing run had made, at least 20."""
    length = max(20, 4 * (plan.pending.step + 1))
    change = _rated(
        plan, "warmup", f"learning rate warmed up over {length} steps", lambda step: min(1.0, (step + 1) / length)
    )
    change.scope = "start"
    yield change


def _rated(plan: "Plan", slug: str, words: str, factor: Callable[[int], float]) -> Change:
    """A change of each group's learning rate around every step; of the gradients' size where updates are by hand."""
    saved: list[tuple[dict[str, Any], str, Any]] = []

    def before(optimizer: Any, step: int) -> None:
        for group in optimizer.param_groups:
            for key in _SCALED:
                if key in group:
                    saved.append((group, key, group[key]))
                    group[key] = group[key] * factor(step)

    def after(optimizer: Any, step: int) -> None:
        for group, key, value in saved:
            group[key] = value
        saved.clear()

    watch = plan.host.watch
    around = Around(watch, before, after)
    if not plan.host.known.optimizers:
        around.on_gradients = lambda step: _scale_gradients(plan, factor(step))
    return Change(slug, words, around, scope="window")


def _scale_gradients(plan: "Plan", factor: float) -> None:
    for parameter in plan.host.known.parameters():
        if parameter.grad is not None:
            parameter.grad.detach().mul_(factor)


def clip_gradients(plan: "Plan", evidence: Evidence) -> Iterator[Change]:
    """Yield a bound on the global gradient norm: the median of the healthy steps, then a tenth of it."""
    norms = [norm for norm in evidence.history.grad_norm if math.isfinite(norm) and norm > 0]
    bound = median(norms[: max(1, min(20, len(norms) // 5))]) if len(norms) >= 5 else 1.0
    bound = min(max(bound, 0.1), 10.0)
    for limit in dict.fromkeys((round(bound, 2), min(1.0, round(bound, 2)), 0.1)):

        def before(optimizer: Any, step: int, limit: float = limit) -> None:
            clip_by_global_norm([p for group in optimizer.param_groups for p in group["params"]], limit)

        around = Around(plan.host.watch, before)
        if not plan.host.known.optimizers:
            around.on_gradients = lambda step, limit=limit: clip_by_global_norm(plan.host.known.parameters(), limit)
        words = f"gradient norm clipped at {limit:g} (whynan.torch.clip.clip_by_global_norm)"
        yield Change("clip-gradients", words, around, scope="window")
    around = Around(plan.host.watch, _nothing, on_returned=lambda grads: _clipped(grads, 1.0))
    yield Change("clip-gradients", "gradients of updates by hand clipped at norm 1", around, scope="window")


def better_init(plan: "Plan", evidence: Evidence) -> Iterator[Change]:
    """Yield layers initialized by their type, then all weights by fan-in alone, from the first step on."""
    known = plan.host.known
    if known.is_sharded:
        return  # each rank would draw its own part
    for by_type in (True, False):
        around = Around(plan.host.watch, _nothing)
        change = Change("better-init", "", around, scope="start", n_applied=lambda: len(known.parameters()))

        def start(change: Change = change, by_type: bool = by_type) -> None:
            held = [p for p in (*known.parameters(), *known.buffers()) if p.is_floating_point()]
            bad = {id(p): p for p in held if not bool(torch.isfinite(p.detach()).all())}
            left = bad or {id(p): p for p in known.parameters()}
            change.words = "weights initialized by their fan-in"
            with torch.random.fork_rng(sorted({p.device.index for p in left.values() if p.device.type == "cuda"})):
                torch.manual_seed(0)
                if by_type and _initialize_layers(known, left):
                    change.words = "layers initialized by their type"
                    change.mode.parts.add("whynan.torch.init.initialize")
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in left.values():
                    _initialize(parameter, generator)

        around.on_start = start
        yield change


def _initialize_layers(known: Any, left: dict[int, Any]) -> bool:
    """Initialize the layers that own parameters of `left`, and take those out; return whether there were any."""
    from whynan.torch.init import initialize_layer

    layers = list({id(m): m for root in known.roots().values() for m in root.modules()}.values())
    kinds = {type(layer).__name__ for layer in layers}
    nonlinearity = "tanh" if "Tanh" in kinds and not kinds & {"ReLU", "GELU", "SiLU", "LeakyReLU"} else "relu"
    n_before = len(left)
    for layer in layers:
        own = {id(p): p._version for p in layer.parameters(recurse=False)}
        if own.keys() & left.keys() and initialize_layer(layer, nonlinearity):
            for parameter in layer.parameters(recurse=False):
                if parameter._version != own[id(parameter)]:
                    left.pop(id(parameter), None)
    return len(left) < n_before


def _initialize(parameter: Any, generator: Any) -> None:
    if parameter.dim() >= 2:
        fan_in = parameter.numel() // parameter.shape[0]
        values = torch.randn(parameter.shape, generator=generator) / math.sqrt(max(fan_in, 1))
        parameter.copy_(values.to(parameter.dtype))
        return
    # A vector of ones is the weight of a normalisation, whose neutral value that is.
    value = 1.0 if bool(torch.isfinite(parameter).all()) and bool((parameter == 1).all()) else 0.0
    parameter.fill_(value)


def larger_optimizer_eps(plan: "Plan", evidence: Evidence) -> Iterator[Change]:
    """Yield an eps that the parameters' dtype can hold."""
    saved: list[tuple[dict[str, Any], Any]] = []
    for value in (1e-8, 1e-4):

        def before(optimizer: Any, step: int, value: float = value) -> None:
            for group in optimizer.param_groups:
                if "eps" in group:
                    eps = group["eps"]
                    saved.append((group, eps))
                    largest = value
                    group["eps"] = (eps[0], largest) if isinstance(eps, tuple) else max(float(eps), largest)

        def after(optimizer: Any, step: int) -> None:
            for group, eps in saved:
                group["eps"] = eps
            saved.clear()

        yield Change("larger-eps", f"eps={value:g} in the optimizer", Around(plan.host.watch, before, after))


class Scaled:
    """While entered, each loss is scaled before its backward pass, gradients are unscaled, bad steps are skipped."""

    def __init__(self, plan: "Plan") -> None:
        self.plan = plan
        self.scale = 2.0**16
        self.n_applied = 0
        self._backward = torch.Tensor.backward
        self._was: Any = None

    def __enter__(self) -> None:
        owner, original = self, torch.Tensor.backward
        self._backward = original
        watch = self.plan.host.watch

        def backward(tensor: Any, gradient: Any = None, *args: Any, **kwargs: Any) -> None:
            if gradient is not None or tensor.numel() != 1 or not math.isfinite(float(tensor.detach())):
                original(tensor, gradient, *args, **kwargs)
                return
            owner.n_applied += 1
            watch.is_quiet = True
            try:
                original(tensor, torch.full_like(tensor, owner.scale), *args, **kwargs)
            finally:
                watch.is_quiet = False
            owner.unscale()

        torch.Tensor.backward = backward

    def unscale(self) -> None:
        parameters = [p for p in self.plan.host.known.parameters() if p.grad is not None]
        bad = False
        for parameter in parameters:
            parameter.grad = parameter.grad / self.scale
            bad = bad or not bool(torch.isfinite(parameter.grad).all())
        if bad:
            self.scale /= 2
            for parameter in parameters:
                parameter.grad = None

    def __exit__(self, *exception: object) -> None:
        torch.Tensor.backward = self._backward


def grad_scaler(plan: "Plan", evidence: Evidence) -> Iterator[Change]:
    """Yield a loss scale of 2^16 that is halved, and the step skipped, where gradients overflow."""
    yield Change("grad-scaler", "loss scaled as a gradient scaler does it", Scaled(plan), scope="window")
