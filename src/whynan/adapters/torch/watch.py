"""Watch a PyTorch program: its losses, gradients, parameters and running statistics, at the points where it uses them.

Optimizers are watched by PyTorch's own global hooks. `torch.autograd.backward` and `grad`, the gradient scaler and the
ways to read a number out of a tensor are wrapped; a wrapper looks, tells the host, and calls what it wraps.
"""

import functools
import math
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from whynan.adapters.torch.elements import (
    TensorGroup,
    TrainedTensors,
    dense,
    first_nonfinite,
    in_turn,
    kind_in,
    kind_of,
    smallest,
)
from whynan.adapters.torch.frames import live_user_frame, name_of_tensor, reading_frame, with_warnings_of
from whynan.adapters.torch.ranks.alone import Single
from whynan.adapters.torch.run_facts import WeightScales
from whynan.adapters.torch.sites import Event
from whynan.adapters.torch.snapshot import KnownState, is_capturing
from whynan.adapters.torch.trail import Poisoned, ScalerWatch, Trail
from whynan.launch.host import tell
from whynan.watching import GrowthWatch, RunHistory

_AFTER_BACKWARD = "after backward"


class Watch(Poisoned):
    """Turns what the program does into events: a loss before backward, gradients after, a step's end, a number read."""

    def __init__(self, known: KnownState, notify: Callable[[Event], None]) -> None:
        super().__init__(known)
        self.notify = notify
        self.history = RunHistory()
        self.growth = GrowthWatch()
        self.on_growth: Callable[[float, float], None] = lambda early, now: None
        self.on_remark: Callable[[str], None] = lambda text: None
        self.scaler = ScalerWatch(self)
        self.n_steps = 0
        self.n_events = 0
        self.enabled = True
        self.on_first_gradient: Callable[[], None] = lambda: None
        self.before_step: Callable[[Any], None] = lambda optimizer: None
        self.after_backward: Callable[[], None] = lambda: None
        self.after_step: Callable[[], None] = lambda: None
        self.weights = WeightScales(known)
        self.trail = Trail(known)
        self.last_clean_step: int | None = None
        self.last_loss: float | None = None
        self._gradients = TensorGroup(share=0.005, free_s=1e-4)
        self._looked_at: tuple[Any, ...] = ()
        self._small: tuple[list[Any], list[Any]] = ([], [])
        self._trained = TrainedTensors()
        self._undo: list[Callable[[], None]] = []
        self._thread = threading.get_ident()
        self._depth = 0
        self.in_optimizer = False
        self.around_step: Any = None
        """What an experiment does around each optimizer step; None outside of one."""
        self.is_quiet = False
        self.tick: Callable[[], None] = lambda: None
        self.ranks: Any = Single()
        """The other processes of the job; set by the host."""

    # Installing ----------------------------------------------------------------------------------------------------

    def install(self) -> None:
        self._wrap(torch.autograd, "backward", self._backward)
        self._wrap(torch.autograd, "grad", self._grad)
        for name in ("item", "__float__", "tolist"):
            self._wrap(torch.Tensor, name, self._read)
        for name in ("grad", "grad_and_value"):
            self._wrap(torch.func, name, self._functional)
        handles = [register_optimizer_step_pre_hook(self._pre_step), register_optimizer_step_post_hook(self._post_step)]
        self._undo += [handle.remove for handle in handles]
        self.scaler.install(self._wrap)

    def uninstall(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo = []

    def _wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        own = name in vars(owner)
        original = getattr(owner, name)
        wrapped = wrapper(original)
        setattr(owner, name, wrapped)

        def undo() -> None:
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

        self._undo.append(undo)

    def _is_off(self) -> bool:
        return not self.enabled or threading.get_ident() != self._thread or is_capturing()

    def bookkeeping(self) -> dict[str, Any]:
        """Return the counts and series as they are, for `put_back` after steps that do not count."""
        names = ("n_steps", "n_events", "last_loss", "grad_norm", "last_clean_step")
        kept = {name: getattr(self, name) for name in names}
        return {**kept, "history": self.history.lengths(), "scaler": dict(vars(self.scaler))}

    def put_back(self, kept: dict[str, Any]) -> None:
        """Take the counts and series back to what `bookkeeping` returned."""
        for name, value in kept.items():
            if name == "history":
                self.history.cut(value)
            elif name == "scaler":
                vars(self.scaler).update(value)
            else:
                setattr(self, name, value)

    def was_calm(self, step: int) -> bool:
        """Whether the loss at a step was still of the size that it had in the beginning."""
        losses = self.history.loss.values()
        return not losses or (step < len(losses) and self.is_calm(losses[step]))

    def is_calm(self, loss: float) -> bool:
        """Whether a loss is of the size that the run's had in the beginning."""
        losses = [abs(loss) for loss in self.history.loss.values()]
        early = sorted(losses[: max(3, min(20, len(losses) // 5))])
        return not early or abs(loss) <= 10 * early[len(early) // 2]

    # Losses and gradients ------------------------------------------------------------------------------------------

    def _backward(self, original: Any) -> Any:
        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_off():
                return original(tensors, *args, **kwargs)
            roots = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
            scaled = self._guarded(self._look_at_roots, roots, True)
            if not self._depth:
                self._guarded(self.ranks.before_backward, self._gradients.budget.is_due())
            self._depth += 1
            try:
                result = original(tensors, *args, **kwargs)
            finally:
                self._depth -= 1
            if self.around_step is not None and self.around_step.on_gradients is not None:
                self._guarded(self.around_step.on_gradients, self.around_step.n_applied)
                self.around_step.n_applied += 1
            if not scaled:
                self._guarded(self._look_at_gradients, _AFTER_BACKWARD)
            if not self._depth:
                self._guarded(self.after_backward)
            return result

        return backward

    def _grad(self, original: Any) -> Any:
        @functools.wraps(original)
        def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_off():
                return original(outputs, inputs, *args, **kwargs)
            roots = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
            if _is_compiling(roots):
                return original(outputs, inputs, *args, **kwargs)
            scaled = self._guarded(self._look_at_roots, [root for root in roots if root.numel() == 1], False)
            result = original(outputs, inputs, *args, **kwargs)
            if self.around_step is not None and self.around_step.on_returned is not None:
                result = self.around_step.on_returned(result)
                self.around_step.n_applied += 1
            if not scaled:
                wanted = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
                is_final = not kwargs.get("create_graph", len(args) > 2 and bool(args[2]))
                self._guarded(self._look_at_returned, wanted, result, is_final)
            return result

        return grad

    def _functional(self, original: Any) -> Any:
        @functools.wraps(original)
        def transform(*args: Any, **kwargs: Any) -> Any:
            function = original(*args, **kwargs)

            @functools.wraps(function)
            def gradient_of(*inner: Any, **options: Any) -> Any:
                result = function(*inner, **options)
                if not self._is_off():
                    self._guarded(self._look_at_functional, result)
                return result

            return gradient_of

        return transform

    def _guarded(self, look: Callable[..., Any], *args: Any) -> Any:
        """Run one of our looks; its failure is ours alone."""
        try:
            with torch.no_grad():
                return look(*args)
        except Exception as error:
            tell("watching failed", error)
            return None

    def _look_at_roots(self, roots: list[Any], is_backward: bool) -> bool:
        """Test the losses; return whether the backward pass is a scaled one."""
        if not self.n_events:
            self.on_first_gradient()
        self.n_events += 1
        self.tick()
        scaled = any(self.scaler.is_scaled(root) for root in roots)
        for root in map(unwrapped, roots):
            if not root.is_floating_point() or root.numel() == 0 or scaled:
                continue
            value = float(_item(root)) if root.numel() == 1 else float(root.detach().sum())
            if root.numel() == 1 and is_backward:
                self.last_loss = value
            if not math.isfinite(value) and first_nonfinite([root]):
                self.notify(Event("loss", "backward", [root], self._name_in_frame(root), kind_of(value) or "nan"))
        if is_backward and not self.thorough:
            self.trail.note_terms(self.n_steps)
        return scaled

    def _look_at_gradients(self, when: str) -> None:
        if self._depth or self.is_quiet:
            return
        parameters = self.known.parameters()
        if self.known.is_sharded:
            return
        # In-place operations on gradients (clipping, unscaling) run over all of them: two tell for the rest.
        ends = (
            next((g for p in order if (g := p.grad) is not None), None) for order in (parameters, reversed(parameters))
        )
        now = tuple((id(g), g._version) for g in ends if g is not None)
        if when != _AFTER_BACKWARD and now == self._looked_at:
            return  # the optimizer is about to use what the backward pass has left
        due = self._due_together()
        if due is not None and when == _AFTER_BACKWARD:
            return  # all ranks look at the same place: before the update
        whole = self._gradients.wants_all(self.thorough, due)
        gradients = dense(p.grad for p in (parameters if whole else self._small_of(parameters)))
        if not gradients and not whole:
            return
        bad, norm = self._gradients.check(gradients, gradients, thorough=self.thorough, due=whole)
        self._looked_at = () if bad else now
        if whole and not self.thorough:
            self.trail.note_gradients(self.n_steps, parameters, self._gradients.norms)
        if norm is not None:
            self.grad_norm = norm
        if bad and due is not None:
            self.ranks.agreed = True
        if bad:
            broken = [p for p in parameters if p.grad is not None and first_nonfinite(dense([p.grad]))]
            self._tell_gradient(broken, [p.grad for p in broken], when)

    def _small_of(self, parameters: list[Any]) -> list[Any]:
        if self._small[0] is not parameters:
            self._small = (parameters, smallest(parameters))
        return self._small[1]

    grad_norm: float | None = None

    def _due_together(self) -> bool | None:
        """Whether all ranks read everything at this step; None where this process decides by itself."""
        if not self.ranks.is_joint or self.thorough:
            return None
        return bool(self.ranks.look_at_all)

    def _tell_gradient(self, parameters: list[Any], gradients: list[Any], when: str) -> None:
        names = self.known.parameter_names()
        name = next((names[id(p)] for p in parameters if id(p) in names), "parameter")
        kinds = [kind_in(gradient) for gradient in dense(gradients)]
        kind = "nan" if "nan" in kinds else kinds[0] if kinds else "nan"
        self.notify(Event("gradient", when, gradients, name, kind, len(parameters)))

    def _look_at_returned(self, wanted: list[Any], result: Any, is_final: bool) -> None:
        trained = {id(p) for p in self.known.parameters()}
        if not trained and is_final:
            # No module and no optimizer: leaves are what the script itself trains.
            self._look_at_leaves([(t, g) for t, g in zip(wanted, result) if g is not None and t.is_leaf])
            return
        pairs = [
            (tensor, gradient)
            for tensor, gradient in zip(wanted, result)
            if gradient is not None and (id(tensor) in trained or isinstance(tensor, torch.nn.Parameter))
        ]
        bad = [(t, g) for t, g in pairs if first_nonfinite(dense([g]))]
        if bad:
            self._tell_gradient([t for t, _ in bad], [g for _, g in bad], "autograd.grad")

    def _look_at_leaves(self, pairs: list[tuple[Any, Any]]) -> None:
        if any(unwrapped(g) is not g for _, g in pairs):
            return  # inside of a transform, which is looked at from outside
        bad = [(t, g) for t, g in pairs if first_nonfinite(dense([g]))]
        if bad:
            gradients = [g for _, g in bad]
            name = name_of_tensor(bad[0][0], live_user_frame(sys._getframe(1))) or "parameter"
            kind = kind_in(dense(gradients)[0])
            self.notify(Event("gradient", "autograd.grad", gradients, name, kind, len(bad)))

    def _look_at_functional(self, result: Any) -> None:
        self.n_events += 1
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if any(torch._C._functorch.is_functorch_wrapped_tensor(leaf) for leaf in leaves):
            return
        bad = [leaf for leaf in dense(leaves) if first_nonfinite([leaf])]
        if bad:
            self.notify(Event("gradient", "torch.func.grad", bad, "gradient", kind_in(bad[0]), len(bad)))

    # Optimizers ------------------------------------------------------------------------------------------------------

    def begin_update(self, optimizer: Any) -> None:
        """Look at gradients before an optimizer that is none of PyTorch's uses them."""
        self._pre_step(optimizer, (), {})

    def end_update(self, optimizer: Any) -> None:
        """Look at the parameters that such an optimizer has updated."""
        self._post_step(optimizer, (), {})

    def _pre_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._is_off():
            return
        self._guarded(self._before_step, optimizer)
        if self.around_step is not None:
            self._guarded(self.around_step.enter_step, optimizer)
        self.in_optimizer = True

    def _before_step(self, optimizer: Any) -> None:
        self.n_events += 1
        self.known.add_optimizer(optimizer)
        if self.known.parameters() and self.known.is_sharded:
            self.ranks.before_sharded_update()
            self.before_step(optimizer)
            return
        self.ranks.before_update()
        self.weights.begin()
        if not self.scaler.is_finding_scale():
            self._look_at_gradients("before optimizer.step()")
        self.before_step(optimizer)
        if not self.thorough:
            self.trail.before_update(self._trained.of(optimizer)[0])

    def _post_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.in_optimizer = False
        if not self._is_off():
            if self.around_step is not None:
                self._guarded(self.around_step.leave_step, optimizer)
            self._guarded(self._after_step, optimizer)

    def _after_step(self, optimizer: Any) -> None:
        if self.known.is_sharded:
            self.ranks.step_is_over()
            self.n_steps += 1
            self._append_history(optimizer)
            return
        self.trail.after_update(self.n_steps)
        parameters, small = self._trained.of(optimizer)
        due = self._due_together()
        bad, norm = self._parameters.check(parameters, in_turn(small, self.n_steps), self.thorough, due)
        if bad and due is not None:
            self.ranks.agreed = True
        if not bad and norm is not None:
            self.last_clean_step = self.n_steps
        if bad:
            broken = first_nonfinite(parameters)
            names = self.known.parameter_names()
            name = next((names[id(p)] for p in broken if id(p) in names), "parameter")
            self.notify(Event("parameter", "after optimizer.step()", broken, name, kind_in(broken[0]), len(broken)))
        self.ranks.step_is_over()
        self.after_step()
        self.n_steps += 1
        self._append_history(optimizer)

    def _append_history(self, optimizer: Any) -> None:
        if self.last_loss is not None:
            self.history.loss.append(self.last_loss)
            if not self.thorough and self.growth.add(self.n_steps - 1, self.last_loss):
                self.on_growth(*self.growth.facts)
        self.history.grad_norm.append(self.grad_norm if self.grad_norm is not None else math.nan)
        rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        if rates:
            self.history.lr.append(max(rates))
        if self.scaler.scale is not None:
            self.history.scale.append(self.scaler.scale)
        if not self.thorough:
            self.history.ended_step()

    # Numbers that the script reads ------------------------------------------------------------------------------------

    def _read(self, original: Any) -> Any:
        may_warn = original.__name__ == "__float__"

        @functools.wraps(original)
        def read(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal may_warn
            if may_warn and tensor.requires_grad:
                value = with_warnings_of(sys._getframe(1), original, tensor)
                may_warn = torch.is_warn_always_enabled()
            else:
                value = original(tensor, *args, **kwargs)
            if value.__class__ is float and value - value != 0.0 and not self._is_off():
                frame = reading_frame(sys._getframe(1))
                if frame is not None:
                    self._guarded(self._look_at_number, tensor, value, frame)
            return value

        return read

    def look_at_tensor(self, tensor: Any, frame: FrameType) -> None:
        """Look at a one-element tensor of which the script asks whether it is finite."""
        if not self._is_off():
            value = float(_item(tensor))
            if not math.isfinite(value):
                self._guarded(self._look_at_number, tensor, value, frame)

    def _look_at_number(self, tensor: Any, value: float, frame: FrameType) -> None:
        event = Event("loss", "read", [tensor], self._name_in_frame(tensor, frame), kind_of(value) or "nan")
        event.line = (frame.f_code.co_filename, frame.f_lineno)
        event.differentiable = tensor.requires_grad
        self.notify(event)

    def _name_in_frame(self, tensor: Any, frame: FrameType | None = None) -> str:
        frame = frame or live_user_frame(sys._getframe(1))
        return name_of_tensor(tensor, frame) or "loss"


def _is_compiling(roots: list[Any]) -> bool:
    """Whether these are tensors without values, with which a compiler follows a step."""
    return any(type(unwrapped(root)).__name__ in ("FakeTensor", "FunctionalTensor") for root in roots)


def unwrapped(tensor: Any) -> Any:
    """Return the plain tensor under the levels of `torch.func`'s transforms: operations are traced on that one."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _item(tensor: Any) -> Any:
    return _RAW_ITEM(tensor.detach())


_RAW_ITEM = torch._C.TensorBase.item
