"""What is known of the run as a whole: its parameters, its optimizer, its precision."""

from typing import TYPE_CHECKING, Any

from whynan.adapters.common.run import Sizes, measure, number_of
from whynan.adapters.mindspore.arrays import array_of, is_floating
from whynan.records import OptimizerFacts, Precision

if TYPE_CHECKING:
    from whynan.adapters.mindspore.watch import Watch


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
