"""What of a MindSpore program is known: its optimizers and models, their parameters, their running statistics."""

import functools
import weakref
from collections.abc import Iterator
from typing import Any

import mindspore as ms
from mindspore import nn

from whynan.adapters.common.arrays import all_finite
from whynan.adapters.common.namespaces import user_spaces
from whynan.adapters.mindspore.arrays import array_of


class Known:
    """Optimizers and normalisation layers are noted when they are made, or when a `Model` trains with them."""

    def __init__(self) -> None:
        self.optimizers: list[weakref.ref[Any]] = []
        self.norms: list[weakref.ref[Any]] = []
        self.weights: dict[int, Any] = {}
        self.cell: tuple[Any, tuple[Any, ...]] | None = None
        """The cell that makes a step and its arguments, while it runs."""

    def known_optimizers(self) -> list[Any]:
        return [optimizer for ref in self.optimizers if (optimizer := ref()) is not None]

    def known_roots(self) -> list[Any]:
        """Return the models that the step's cell and the user's frames hold."""
        cells = [self.cell[0]] if self.cell is not None else []
        for space in user_spaces():
            cells += [value for value in list(space.values()) if isinstance(value, nn.Cell)]
            cells += [value._network for value in list(space.values()) if isinstance(value, ms.train.Model)]
        found: list[Any] = []
        for cell in cells:
            inner = cell
            while isinstance(inner, (nn.TrainOneStepCell, nn.WithLossCell)):
                inner = inner.network if isinstance(inner, nn.TrainOneStepCell) else inner._backbone
            if not isinstance(inner, nn.Optimizer) and all(inner is not other for other in found):
                found.append(inner)
        return found

    def statistics(self) -> list[Any]:
        """Return the running statistics of the normalisation layers that are alive."""
        found = []
        for layer in (layer for ref in self.norms if (layer := ref()) is not None):
            for name in ("moving_mean", "moving_variance", "running_mean", "running_var"):
                parameter = layer._params.get(name)
                if parameter is not None:
                    found.append(parameter)
        return found

    def bad_statistic(self) -> Any:
        """Return a running statistic that is not finite; None where all are."""
        return next((p for p in self.statistics() if not all_finite(array_of(p))), None)

    def trained(self) -> list[Any]:
        """Return the parameters that optimizers update, or that gradients were taken of."""
        found = {id(p): p for optimizer in self.known_optimizers() for p in optimizer.parameters}
        return list({**found, **self.weights}.values())

    def changeable(self) -> list[Any]:
        """Return all parameters that a step may change: weights, what optimizers keep, running statistics."""
        found = {id(p): p for p in self.trained()}
        for optimizer in self.known_optimizers():
            found.update({id(p): p for p in optimizer.get_parameters()})
        for optimizer in self.known_optimizers():
            found.update({id(p): p for p in _attributes_of(optimizer)})
        found.update({id(p): p for p in self.statistics()})
        return list(found.values())

    def _optimizer_init(self, original: Any) -> Any:
        watch = self

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(self, *args, **kwargs)
            if all(ref() is not self for ref in watch.optimizers):
                watch.optimizers.append(weakref.ref(self))

        return like(__init__, original)

    def _norm_init(self, original: Any) -> Any:
        watch = self

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(self, *args, **kwargs)
            watch.norms.append(weakref.ref(self))

        return like(__init__, original)

    def know_cells(self, network: Any, optimizer: Any) -> None:
        """Take note of an optimizer and of normalisation layers that were made before watching began."""
        for _, cell in network.cells_and_names() if network is not None else ():
            if isinstance(cell, tuple(norm_kinds())) and all(ref() is not cell for ref in self.norms):
                self.norms.append(weakref.ref(cell))
        if optimizer is not None and all(ref() is not optimizer for ref in self.optimizers):
            self.optimizers.append(weakref.ref(optimizer))


def optimizer_kinds() -> list[Any]:
    kinds: list[Any] = [nn.Optimizer]
    try:
        from mindspore.experimental.optim.optimizer import Optimizer

        kinds.append(Optimizer)
    except ImportError:
        pass
    return kinds


def norm_kinds() -> list[Any]:
    from mindspore.nn.layer import normalization

    kinds: list[Any] = [normalization._BatchNorm]
    try:
        from mindspore.mint.nn.layer.normalization import _NormBase

        kinds.append(_NormBase)
    except ImportError:
        pass
    return kinds


def _attributes_of(optimizer: Any) -> Iterator[Any]:
    """Yield the parameters that an optimizer holds in tuples of its own."""
    for value in vars(optimizer).values():
        if isinstance(value, ms.Parameter):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from (item for item in value if isinstance(item, ms.Parameter))


def like(replacement: Any, original: Any) -> Any:
    """Return a replacement with the name and the documentation of what it stands for."""
    return functools.wraps(original)(replacement)
