"""`nn.TrainOneStepCell` in graph mode: the same step as a cell whose update depends on finite numbers.

The script's own cell stays as it is; the guarded one shares its network, optimizer and parameters.
"""

import math
import weakref
from typing import TYPE_CHECKING, Any

import mindspore as ms
from mindspore import nn, ops

from whynan.adapters.mindspore.dispatch import array_of
from whynan.launch.host import tell

if TYPE_CHECKING:
    from whynan.adapters.mindspore.watch import Told

_PLAIN = nn.TrainOneStepCell.construct


class GuardedStep(nn.Cell):  # type: ignore[misc]
    """Gives (loss, its value, the sum of the squared gradients, whether all was finite)."""

    def __init__(self, cell: Any) -> None:
        super().__init__(auto_prefix=False)
        self.network = cell.network
        self.optimizer = cell.optimizer
        self.weights = cell.weights
        self.grad = cell.grad
        self.grad_no_sens = cell.grad_no_sens
        self.grad_reducer = cell.grad_reducer
        self.sense_flag = cell.sense_flag
        self.sens = cell.sens

    def construct(self, *inputs: Any) -> Any:
        loss = self.network(*inputs)
        if self.sense_flag:
            sens = ops.fill(loss.dtype, loss.shape, self.sens)
            grads = self.grad(self.network, self.weights)(*inputs, sens)
        else:
            grads = self.grad_no_sens(self.network, self.weights)(*inputs)
        grads = self.grad_reducer(grads)
        value = loss.astype(ms.float32).sum()
        total = ops.zeros((), ms.float32)
        for grad in grads:
            total = total + ops.square(grad.astype(ms.float32)).sum()
        sound = ops.isfinite(total + value)
        if not sound:
            # A sum of squares may overflow for finite gradients: 0 times each tells.
            nothing = ops.zeros((), ms.float32)
            for grad in grads:
                nothing = nothing + (grad.astype(ms.float32) * 0).sum()
            sound = ops.isfinite(nothing + value)
        if sound:
            loss = ops.depend(loss, self.optimizer(grads))
        return loss, value, total, sound


class Guards:
    def __init__(self) -> None:
        self._made: dict[int, tuple[weakref.ref[Any], GuardedStep | None]] = {}

    def of(self, cell: Any) -> GuardedStep | None:
        """Return the guarded form of a cell; None where it makes its step in a way of its own."""
        known = self._made.get(id(cell))
        if known is None or known[0]() is not cell:
            known = (weakref.ref(cell), self._make(cell))
            self._made[id(cell)] = known
        return known[1]

    @staticmethod
    def _make(cell: Any) -> GuardedStep | None:
        if type(cell).construct is not _PLAIN or cell.return_grad or cell.use_graceful_exit:
            return None
        try:
            guarded = GuardedStep(cell)
            guarded.set_train(cell.training)
            guarded._jit_config_dict = cell.jit_config_dict
            return guarded
        except Exception as error:
            tell("making a step's update conditional failed", error)
            return None

    def run(self, guarded: GuardedStep, args: tuple[Any, ...]) -> tuple[Any, "Told"]:
        """Run the guarded step; return its loss and what it told."""
        from whynan.adapters.mindspore.watch import Told

        loss, value, total, sound = guarded(*args)
        number, squared = float(array_of(value)), float(array_of(total))
        is_bad = not bool(array_of(sound))
        loss_bad = is_bad and not math.isfinite(number)
        norm = math.sqrt(squared) if math.isfinite(squared) else math.inf
        return loss, Told(loss_bad, is_bad and not loss_bad, number, norm)
