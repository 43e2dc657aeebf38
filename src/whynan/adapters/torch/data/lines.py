"""What a line watch sees of torch: its functions that turn finite tensors into a bad one."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from whynan.adapters.common.data import lines
from whynan.adapters.common.data.lines import Operation
from whynan.adapters.common.data.values import is_bad


class LineWatch(lines.LineWatch):
    """A line watch that notes torch functions too."""

    def operations(self) -> AbstractContextManager[Any]:
        return _Operations(self)

    def unseen(self) -> AbstractContextManager[Any]:
        return torch._C.DisableTorchFunction()  # type: ignore[no-any-return]


class _Operations(TorchFunctionMode):  # type: ignore[misc]
    """Sees torch functions that turn finite tensors into a bad one."""

    def __init__(self, watch: LineWatch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if self.watch.record and isinstance(output, torch.Tensor) and is_bad(output):
            inputs = [value for value in args if isinstance(value, (torch.Tensor, float, int))]
            if not is_bad(list(args)):
                name = _plain_name(function)
                self.watch.note(lambda place: Operation(name, None, place, tuple(inputs), output))
        return output


def _plain_name(function: Any) -> str:
    name = getattr(function, "__name__", str(function)).strip("_")
    names = {"truediv": "divide", "rtruediv": "divide", "div": "divide", "itruediv": "divide", "sub": "subtract"}
    return names.get(name, name.removesuffix("_"))
