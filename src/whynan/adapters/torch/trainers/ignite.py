"""PyTorch Ignite: the step is an engine's process function."""

import functools
from typing import TYPE_CHECKING, Any

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.trainers.closure import StepClosure

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


def patch(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let the process function of every engine made from now on be run again; each engine counts by itself."""

    def wrapped(original: Any) -> Any:
        def __init__(engine: Any, process_function: Any) -> None:  # noqa: N807
            original(engine, process_function)
            engine._process_function = repeatable(host, process_function)

        return __init__

    patches.replace(module.Engine, "__init__", wrapped)


def repeatable(host: "TorchHost", original: Any) -> Any:
    """Return a process function whose calls can be run again."""
    closure = StepClosure(host, getattr(original, "__name__", "process_function"))

    @functools.wraps(original)
    def process_function(engine: Any, batch: Any) -> Any:
        return closure.run(lambda given: original(engine, given), batch, epoch=max(engine.state.epoch - 1, 0))

    return process_function
