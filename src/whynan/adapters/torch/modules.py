"""Which module of the model is running, during a replay."""

from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from whynan.adapters.torch.frames import RUNNING
from whynan.trace.graph import Frame


class ModuleStack:
    """Follow the modules' forward calls by the global hooks, while entered."""

    def __init__(self) -> None:
        self.paths: dict[int, str] = {}
        self.stack: list[Any] = []
        self._handles: list[Any] = []

    def name_from(self, roots: dict[str, Any]) -> None:
        """Give every submodule of the root modules its dotted path inside its root."""
        for root in roots.values():
            for path, module in root.named_modules():
                if len(path) >= len(self.paths.get(id(module), "")):
                    self.paths[id(module)] = path

    def enter(self) -> None:
        self._handles = [
            register_module_forward_pre_hook(self._push),
            register_module_forward_hook(self._pop, always_call=True),
        ]

    def leave(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self.stack = [], []

    def _push(self, module: Any, args: Any) -> None:
        self.stack.append(module)

    def _pop(self, module: Any, args: Any, output: Any) -> None:
        while self.stack and self.stack.pop() is not module:
            pass

    def current(self) -> tuple[str | None, str | None]:
        """Return the dotted path and the class name of the innermost module that runs now."""
        if RUNNING:
            path = next((running.path for running in reversed(RUNNING) if running.path is not None), None)
            return path, next((running.kind for running in reversed(RUNNING) if running.kind is not None), None)
        if not self.stack:
            return None, None
        module = self.stack[-1]
        return self.paths.get(id(module)) or None, type(module).__name__

    def custom_function(self, stack: tuple[Frame, ...]) -> str | None:
        """Return the name of the user's autograd function whose forward is the innermost frame, if one is."""
        if not stack or stack[0].function != "forward":
            return None
        owner = stack[0].code.co_qualname.rpartition(".")[0].rpartition(".")[2]
        return owner if owner in _functions() else None


def _functions() -> set[str]:
    return {cls.__name__ for cls in torch.autograd.Function.__subclasses__()}
