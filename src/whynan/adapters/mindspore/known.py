"""What of a MindSpore program is known: its optimizers, models, parameters, cells and the lines that made them."""

import functools
import sys
import weakref
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import mindspore as ms
from mindspore import nn

from whynan.adapters.common.arrays import all_finite
from whynan.adapters.common.namespaces import user_spaces
from whynan.adapters.common.patches import Patches
from whynan.adapters.common.positions import source_line
from whynan.adapters.common.run import Sizes, measure, number_of
from whynan.adapters.mindspore.dispatch import array_of, is_floating
from whynan.launch.host import is_user_file
from whynan.records import OptimizerFacts, Precision, SourceLine
from whynan.trace import Frame

if TYPE_CHECKING:
    from whynan.adapters.mindspore.watch import Watch


def parameters_in(values: Iterable[Any], depth: int = 0) -> list[Any]:
    """Return the parameters among names' values: what a script that updates by hand keeps between its steps."""
    found = []
    for value in list(values):
        if isinstance(value, ms.Parameter):
            found.append(value)
        elif isinstance(value, (list, tuple, dict)) and len(value) <= 512 and depth < 2:
            found += parameters_in(value.values() if isinstance(value, dict) else value, depth + 1)
    return found


_DEPTH = 40


class Places:
    """Lines by cell. Cells are held weakly."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[weakref.ref[Any], Frame]] = {}

    def install(self, patches: Patches) -> None:
        patches.replace(nn.Cell, "__init__", self._init)

    def made(self, cell: Any) -> SourceLine | None:
        """Return the line that made a cell; None where no line of the user's did."""
        known = self._made.get(id(cell))
        return source_line(known[1]) if known is not None and known[0]() is cell else None

    def _init(self, original: Any) -> Any:
        places = self

        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            frame = _maker(sys._getframe(1), type(self))
            if frame is not None and len(places._made) < 20_000:
                places._made[id(self)] = (weakref.ref(self), frame)
            original(self, *args, **kwargs)

        return __init__


def _maker(frame: FrameType | None, kind: type) -> Frame | None:
    """Return the user's frame that asked for an object of the class: none of its own constructors."""
    constructors = {getattr(vars(base).get("__init__"), "__code__", None) for base in kind.__mro__}
    for _ in range(_DEPTH):
        if frame is None:
            return None
        code = frame.f_code
        if is_user_file(code.co_filename) and code not in constructors:
            return Frame(code.co_filename, frame.f_lineno, code.co_name, code, frame.f_lasti)
        frame = frame.f_back
    return None


def names_of_cells(roots: list[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for root in roots:
        for path, cell in root.cells_and_names():
            found.setdefault(id(cell), path)
    return found


def measured(parameters: list[Any]) -> Sizes:
    """Return how large parameters are. Kernels are laid out (out, in, ...)."""
    return measure(((str(p.name), array_of(p)) for p in parameters if is_floating(p)), is_out_first=True)


def learning_rate(optimizer: Any) -> float | None:
    """Return an optimizer's learning rate, the largest of its groups; None where it follows a schedule of its own."""
    try:
        groups = getattr(optimizer, "param_groups", None)
        if groups:
            return max(float(group["lr"]) for group in groups)
        if getattr(optimizer, "dynamic_lr", False):
            return float(array_of(optimizer.get_lr()).max()) if not getattr(optimizer, "is_group_lr", False) else None
        rate = optimizer.learning_rate
        rates = rate if isinstance(rate, (list, tuple)) else [rate]
        return max(float(array_of(r)) for r in rates)
    except Exception:
        return None


def optimizer_of(watch: "Watch") -> OptimizerFacts | None:
    """Return the facts of the optimizer that updates most."""
    optimizers = watch.known_optimizers()
    if not optimizers:
        return None
    optimizer = max(optimizers, key=lambda o: sum(p.size for p in o.parameters))
    groups = getattr(optimizer, "param_groups", None)
    first = groups[0] if groups else {}
    zeros: dict[str, int] = {}
    trained = {id(p) for p in optimizer.parameters}
    for parameter in optimizer.get_parameters():
        if id(parameter) not in trained and parameter.size > 1 and is_floating(parameter):
            key = str(parameter.name).split(".")[0]
            zeros[key] = zeros.get(key, 0) + int((array_of(parameter) == 0).sum())
    betas = first.get("betas")
    b1, b2 = number_of(getattr(optimizer, "beta1", None)), number_of(getattr(optimizer, "beta2", None))
    return OptimizerFacts(
        name=type(optimizer).__name__,
        lr=learning_rate(optimizer),
        eps=number_of(first.get("eps", getattr(optimizer, "eps", None))),
        weight_decay=number_of(first.get("weight_decay", getattr(optimizer, "weight_decay", None))),
        momentum=number_of(first.get("momentum", getattr(optimizer, "momentum", None))),
        betas=(float(betas[0]), float(betas[1])) if betas else (b1, b2) if b1 is not None and b2 is not None else None,
        n_parameters=sum(int(p.size) for p in optimizer.parameters),
        state_zeros=zeros,
        source=watch.places.made(optimizer),
    )


def precision_of(watch: "Watch", ops: list[str]) -> Precision:
    """Return in which precision the step ran; `ops` are the dtypes that its operations made."""
    dtypes = [str(p.dtype).lower() for p in watch.trained()]
    parameters = dtypes[0] if dtypes else "float32"
    half = next((d for d in ops if d in ("float16", "bfloat16")), None)
    return Precision(
        autocast=half if parameters == "float32" else None,
        parameters=parameters,
        scaler=watch.unscaled is not None,
    )


class Known:
    """Optimizers and normalisation layers are noted when they are made, or when a `Model` trains with them."""

    def __init__(self) -> None:
        self.optimizers: list[weakref.ref[Any]] = []
        self.norms: list[weakref.ref[Any]] = []
        self.weights: dict[int, Any] = {}
        self.held: list[Any] = []
        """Parameters that the script itself keeps, where it updates by hand."""
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
        found.update({id(p): p for p in self.held})
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
