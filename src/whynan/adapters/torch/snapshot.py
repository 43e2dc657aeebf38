"""PyTorch's side of a snapshot: buffers, gradients, hyperparameters, random states, small tensors in the user's hands.

Parameters and optimizer state are not copied at the start of an iteration: a non-finite gradient is found before the
optimizer touches them. They are copied just before an optimizer's first step of the iteration (`save_before_step`),
where that fits the time and memory budget, because a step whose *update* is non-finite cannot be withheld any more.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

import torch

from whynan.adapters.torch import late
from whynan.launch.host import is_user_file
from whynan.launch.rewrite import LoopSite
from whynan.snapshot import (
    GlobalRandomState,
    NamesSnapshot,
    ObjectsSnapshot,
    Reach,
    carried_names,
    find_reach,
    frame_values,
)

MEMORY_BUDGET = 512 * 2**20
_SMALL = 2**20
_SMALL_TOTAL = 2**24


class Snapshot:
    """What one iteration of a loop will change, as it was before."""

    def __init__(
        self, frame: FrameType, site: LoopSite, known: "KnownState", *, small_tensors: bool, gradients: bool
    ) -> None:
        values = frame_values(frame)
        self.names = NamesSnapshot(frame, carried_names(site), values)
        reach = known.reach_of(site, frame, values or {})
        roots = reach.values(values or {}, frame.f_globals)
        self.objects = ObjectsSnapshot(roots.values(), is_stateful_type)
        self.scales = TensorCopies(_scales_of(roots.values()))
        self.random = RandomStates()
        self.bound = {name: values[name] for name in site.targets if name in values} if values else {}
        known.meet(roots)
        self.buffers = TensorCopies(known.buffers())
        self.attributes = known.attributes()
        self.hyperparameters = [(group, {k: v for k, v in group.items() if k != "params"}) for group in known.groups()]
        self.gradients = GradientState(known.parameters(), copy=gradients)
        self.optimizers: dict[int, OptimizerCopy] = {}
        # Without an optimizer whose step could be awaited the parameters are changed by hand, like other tensors.
        by_hand = () if known.optimizers else known.parameters()
        loose = [*roots.values(), *by_hand] if small_tensors else []
        self.tensors = TensorCopies(_small_tensors(loose, known))
        parameters = known.parameters() if known.optimizers and not known.is_sharded else []
        self.weights = known.moved_by_hand.copy(parameters, is_first=small_tensors)
        self.stamps = [(p, p._version) for p in parameters[:3] if not p.is_inference()]
        self.others = [save() for save in known.savers]
        self.versions = [(t, t._version) for t in _loose_tensors(roots.values())[:64] if not t.is_inference()]

    def save_before_step(self, optimizer: Any, copy: "OptimizerCopy") -> None:
        self.optimizers.setdefault(id(optimizer), copy)

    def restore(self, frame: FrameType, changed: dict[str, Any] | None = None) -> None:
        """Put everything back; names last, so that a replaced batch wins."""
        with torch.no_grad():
            for copy in self.optimizers.values():
                copy.restore()
            self.buffers.restore()
            self.tensors.restore()
            self.weights.restore()
            self.scales.restore()
            self.gradients.restore()
        for module, attributes, training in self.attributes:
            vars(module).update(attributes)
            module.training = training
        for group, values in self.hyperparameters:
            for key in [k for k in group if k != "params" and k not in values]:
                del group[key]
            group.update(values)
        self.objects.restore()
        for other in self.others:
            other.restore()
        self.random.restore()
        self.names.restore(frame, changed)

    def tensors_changed(self) -> list[Any]:
        return [tensor for tensor, copy in self.tensors.pairs if not torch.equal(tensor.detach(), copy)]

    def changed_in_place(self) -> list[Any]:
        """Return tensors in the user's hands that the body wrote in place and that no copy covers."""
        covered = {id(tensor) for tensor, _ in self.tensors.pairs} | {id(tensor) for tensor, _ in self.buffers.pairs}
        return [tensor for tensor, version in self.versions if tensor._version != version and id(tensor) not in covered]


class Restorable(Protocol):
    """A copy that can be put back."""

    def restore(self) -> None: ...


class RandomStates:
    """The global random streams of Python, NumPy and PyTorch, on the CPU and on every GPU."""

    def __init__(self) -> None:
        self.others = GlobalRandomState()
        self.torch = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if _cuda_used() else None

    def restore(self) -> None:
        self.others.restore()
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)


def parts_of(tensor: Any) -> list[Any]:
    """Return the tensors that a tensor is made of: a wrapper's own (this rank's shard, 8-bit codes and scales), or it.

    A sharded tensor as a whole would wait for the other ranks; a quantized one can hardly do anything itself.
    """
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    return [inner for part in parts if isinstance(part, torch.Tensor) for inner in parts_of(part)]


def cloned(tensors: list[Any]) -> list[Any]:
    """Return copies; where an operation has to be launched on a device, those of one dtype by a few of them."""
    groups: dict[Any, list[int]] = {}
    for place, tensor in enumerate(tensors):
        if late.works_ahead(tensor) and tensor.layout is torch.strided:
            groups.setdefault((tensor.device, tensor.dtype), []).append(place)
    copies: dict[int, Any] = {}
    for (_, dtype), places in groups.items():
        if not dtype.is_complex and dtype.itemsize > 1 and len(places) > 1:
            copies |= dict(zip(places, torch._foreach_mul([tensors[place] for place in places], 1)))
    return [copies[place] if place in copies else tensor.clone() for place, tensor in enumerate(tensors)]


class TensorCopies:
    """Copies of tensors by value, put back in place."""

    def __init__(self, tensors: Iterable[Any]) -> None:
        parts = [part for tensor in tensors for part in parts_of(tensor)]
        self.pairs = list(zip(parts, cloned([part.detach() for part in parts])))

    def have_changed(self) -> bool:
        return any(not torch.equal(tensor.detach(), copy) for tensor, copy in self.pairs)

    def restore(self) -> None:
        for tensor, copy in self.pairs:
            # Left alone where nothing changed: a write would count as one for autograd's saved tensors.
            if tensor.shape == copy.shape and not torch.equal(tensor.detach(), copy):
                tensor.detach().copy_(copy)


class MovedByHand:
    """Whether the script moves the weights between an iteration's beginning and the optimizer's step, as SAM does."""

    def __init__(self) -> None:
        self.is_seen = False

    def copy(self, parameters: list[Any], *, is_first: bool) -> TensorCopies:
        """Return copies for an iteration that has to begin from its own weights; of the first ones it is not known."""
        limit = _SMALL_TOTAL * 8 if self.is_seen else _SMALL_TOTAL if is_first else 0
        is_small = limit and sum(p.numel() * p.element_size() for p in parameters) <= limit
        return TensorCopies(parameters if is_small else ())

    def look(self, snapshot: Snapshot) -> None:
        """Called before a step. What is written through `.data` the copies of the first ones show."""
        is_written = any(p._version != version for p, version in snapshot.stamps)
        self.is_seen = self.is_seen or is_written or snapshot.weights.have_changed()


class GradientState:
    """Which parameters had gradients when the iteration began, and their values where gradients are accumulated.

    And which were to have one: the step of an adversarial pair freezes one network, and is left in the middle.
    """

    def __init__(self, parameters: list[Any], *, copy: bool) -> None:
        if copy:
            self.entries = [(p, g, None if g is None else g.detach().clone()) for p in parameters for g in (p.grad,)]
        else:
            self.entries = [(parameter, parameter.grad, None) for parameter in parameters]
        self.frozen = [parameter for parameter in parameters if not parameter.requires_grad]

    def restore(self) -> None:
        frozen = {id(parameter) for parameter in self.frozen}
        for parameter, grad, copy in self.entries:
            if parameter.requires_grad == (id(parameter) in frozen) and parameter.is_leaf:
                parameter.requires_grad_(id(parameter) not in frozen)
            if grad is None:
                parameter.grad = None
                continue
            parameter.grad = grad
            if copy is not None:
                grad.detach().copy_(copy)
            elif not all(bool(torch.isfinite(part.detach().sum())) for part in parts_of(grad)):
                grad.detach().zero_()  # the iteration's own; its value before is not known


class OptimizerCopy:
    """One optimizer's parameters and state by value."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.parameters = TensorCopies(p for group in optimizer.param_groups for p in group["params"])
        self.state = {parameter: dict(values) for parameter, values in optimizer.state.items()}
        tensors = [v for values in self.state.values() for v in values.values() if isinstance(v, torch.Tensor)]
        self.values = TensorCopies(tensors)

    def restore(self) -> None:
        self.parameters.restore()
        state = self.optimizer.state
        for parameter in [p for p in state if p not in self.state]:
            del state[parameter]
        for parameter, values in self.state.items():
            state[parameter].clear()
            state[parameter].update(values)
        self.values.restore()

    @staticmethod
    def n_bytes(optimizer: Any) -> int:
        total = 0
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                total += parameter.numel() * parameter.element_size()
                for value in optimizer.state.get(parameter, {}).values():
                    if isinstance(value, torch.Tensor):
                        total += sum(part.numel() * part.element_size() for part in parts_of(value))
        return total


class KnownState:
    """The run's modules and optimizers as far as they have been met."""

    def __init__(self) -> None:
        self.optimizers: list[Any] = []
        self.modules: dict[int, Any] = {}
        self.names: dict[int, str] = {}
        self.leaves: dict[int, Any] = {}
        self.is_sharded = False
        """Whether parameters are spread over processes: to look at one waits for all of them."""
        self.moved_by_hand = MovedByHand()
        self.savers: list[Callable[[], Restorable]] = []
        """Make copies of what else an iteration changes: a trainer's own counts."""
        self._reach: dict[int, Reach] = {}
        self._met: dict[int, Any] = {}
        self._dull: set[type] = set()
        self._buffers: list[Any] | None = None
        self._more_buffers: dict[int, Any] = {}
        self._users_modules: list[Any] | None = None
        self._parameters: list[Any] | None = None
        self.on_module: Callable[[str, Any], None] = lambda name, module: None
        """Told of each module that is met."""

    @contextmanager
    def also_saving(self, saver: Callable[[], "Restorable"]) -> Iterator[None]:
        """Let the snapshots that are taken meanwhile hold what `saver` returns, too."""
        self.savers.append(saver)
        try:
            yield
        finally:
            self.savers.remove(saver)

    def add_optimizer(self, optimizer: Any) -> None:
        if not any(known is optimizer for known in self.optimizers):
            self.optimizers.append(optimizer)
            self._parameters = None

    def add_buffers(self, tensors: Iterable[Any]) -> None:
        """Take in running statistics that a module does not hold as buffers."""
        for tensor in tensors:
            if id(tensor) not in self._more_buffers:
                self._more_buffers[id(tensor)] = tensor
                self._buffers = None

    def reach_of(self, site: LoopSite, frame: FrameType, values: dict[str, Any]) -> "Reach":
        """Return which names the loop's body can reach; found once, and again after the functions may have changed."""
        reach = self._reach.get(site.index)
        if reach is None or reach.n_uses > 500:
            reach = self._reach[site.index] = find_reach(site, frame, values, is_user_file)
        reach.n_uses += 1
        return reach

    def meet(self, values: dict[str, Any]) -> None:
        """Take in modules and optimizers among the values, and in the attributes of the user's objects."""
        dull, met = self._dull, self._met
        for name, value in values.items():
            if type(value) not in dull and id(value) not in met:
                self._meet(name, value, 0)

    def _meet(self, name: str, value: Any, depth: int) -> None:
        if type(value) in self._dull:
            return
        if isinstance(value, torch.nn.Module):
            if id(value) not in self.modules:
                self.modules[id(value)] = value
                self.names[id(value)] = name
                self._buffers = self._users_modules = self._parameters = None
                self._met[id(value)] = value
                self.on_module(name, value)
        elif isinstance(value, torch.optim.Optimizer):
            self.add_optimizer(value)
            self._met[id(value)] = value
        elif depth < 2:
            if isinstance(value, (list, tuple)) and 0 < len(value) <= 32:
                for item in value:
                    if not isinstance(item, torch.Tensor):
                        self._meet(name, item, depth + 1)
            elif isinstance(value, dict) and 0 < len(value) <= 32:
                for key, item in value.items():
                    self._meet(str(key), item, depth + 1)
            elif is_users_type(type(value)) and hasattr(value, "__dict__"):
                for key, item in list(vars(value).items()):
                    self._meet(key, item, depth + 1)
            elif not isinstance(value, (list, tuple, dict)) and not is_users_type(type(value)):
                self._dull.add(type(value))

    def roots(self) -> dict[str, Any]:
        inner = {id(m) for root in self.modules.values() for m in root.modules() if m is not root}
        return {f"{self.names[key]}#{n}": m for n, (key, m) in enumerate(self.modules.items()) if key not in inner}

    def buffers(self) -> list[Any]:
        """Return all floating-point or counting buffers of all modules, once each."""
        if self._buffers is None:
            found = {id(b): b for m in self.modules.values() for b in m.buffers() if b.numel() <= 2**22}
            self._buffers = list((found | self._more_buffers).values())
        return self._buffers

    def attributes(self) -> list[tuple[Any, dict[str, Any], bool]]:
        """Return the plain attributes of modules whose class is the user's own, and every module's training flag."""
        if self._users_modules is None:
            found = {id(m): m for root in self.modules.values() for m in root.modules() if is_users_type(type(m))}
            self._users_modules = list(found.values())
        return [
            (m, {k: v for k, v in vars(m).items() if not k.startswith("_") and k != "training"}, m.training)
            for m in self._users_modules
        ]

    def groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def parameters(self) -> list[Any]:
        """Return all trained tensors once each: of optimizers, of modules, and other leaves that got gradients."""
        if self._parameters is None:
            found = {id(p): p for group in self.groups() for p in group["params"]}
            for module in self.modules.values():
                found |= {id(p): p for p in module.parameters() if p.requires_grad}
            self._parameters = list((found | self.leaves).values())
            self.is_sharded = any(hasattr(parameter, "_local_tensor") for parameter in self._parameters)
        return self._parameters

    def parameter_names(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for root in self.roots().values():
            for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
                found.setdefault(id(tensor), name)
        return found


def is_users_type(kind: type) -> bool:
    module = getattr(kind, "__module__", None)
    cached = _USERS_TYPES.get(kind)
    if cached is None:
        import sys

        file = getattr(sys.modules.get(module or ""), "__file__", None)
        cached = _USERS_TYPES[kind] = bool(file) and is_user_file(str(file))
    return cached


_USERS_TYPES: dict[type, bool] = {}


def is_stateful_type(kind: type) -> bool:
    """Whether an object's plain attributes belong into a snapshot: the user's own, schedulers, gradient scalers."""
    module = getattr(kind, "__module__", None) or ""
    return module.startswith(("torch.optim.lr_scheduler", "torch.amp.grad_scaler")) or is_users_type(kind)


def _scales_of(roots: Iterable[Any]) -> list[Any]:
    kind = torch.amp.GradScaler
    scalers = [value for value in roots if isinstance(value, kind)]
    scales = [getattr(scaler, name, None) for scaler in scalers for name in ("_scale", "_growth_tracker")]
    return [scale for scale in scales if isinstance(scale, torch.Tensor)]


def _loose_tensors(roots: Iterable[Any]) -> list[Any]:
    found = []
    for value in roots:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)) and len(value) <= 16:
            found += [item for item in value if isinstance(item, torch.Tensor)]
        elif isinstance(value, dict) and len(value) <= 64:
            found += [item for item in value.values() if isinstance(item, torch.Tensor)]
    return found


def _small_tensors(roots: Iterable[Any], known: KnownState) -> list[Any]:
    """Return loose tensors small enough to copy each time: hand-made weights, hidden states, the batch."""
    loose = _loose_tensors(roots)
    if not loose:
        return []
    covered = {id(p) for group in known.groups() for p in group["params"]}
    total, found = 0, {}
    for tensor in loose:
        size = tensor.numel() * tensor.element_size()
        if size > _SMALL or total + size > _SMALL_TOTAL or id(tensor) in covered or tensor.layout != torch.strided:
            continue
        if tensor.is_inference():  # it cannot be written outside of inference_mode
            continue
        total += size
        found[id(tensor)] = tensor
    return list(found.values())


def is_capturing() -> bool:
    """Whether what is launched now goes into a CUDA graph, to run again with each of its replays."""
    return _cuda_used() and bool(torch.cuda.is_current_stream_capturing())


def _cuda_used() -> bool:
    return bool(torch.cuda.is_initialized())
