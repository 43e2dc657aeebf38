"""Loops that live in installed packages: their step function is the iteration, and is called again.

`install` makes each trainer known as soon as the program imports it; none is imported here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.trainers import ignite, launchers, lightning, mmengine, transformers
from whynan.launch.host import tell
from whynan.launch.imports import when_imported

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost

Patch = Callable[["TorchHost", Any, Patches], None]

_TRAINERS: dict[str, Patch] = {
    "lightning.pytorch.loops.optimization.automatic": lightning.patch_automatic,
    "lightning.pytorch.loops.optimization.manual": lightning.patch_manual,
    "pytorch_lightning.loops.optimization.automatic": lightning.patch_automatic,
    "pytorch_lightning.loops.optimization.manual": lightning.patch_manual,
    "lightning.fabric.strategies.launchers.subprocess_script": launchers.patch_subprocess,
    "lightning.pytorch.strategies.launchers.subprocess_script": launchers.patch_subprocess,
    "lightning_fabric.strategies.launchers.subprocess_script": launchers.patch_subprocess,
    "pytorch_lightning.strategies.launchers.subprocess_script": launchers.patch_subprocess,
    "transformers.trainer": transformers.patch,
    "ignite.engine.engine": ignite.patch,
    "mmengine.runner.loops": mmengine.patch,
}


def install(host: "TorchHost") -> Patches:
    """Let the steps of trainers be run again, those imported by now and those that will be; returns what to undo."""
    patches = Patches()
    for name, patch in _TRAINERS.items():
        when_imported(name, _patcher(host, name, patch, patches))
    return patches


def _patcher(host: "TorchHost", name: str, patch: Patch, patches: Patches) -> Callable[[Any], None]:
    def imported(module: Any) -> None:
        if host.is_over:
            return
        try:
            patch(host, module, patches)
        except Exception as error:
            tell(f"watching {name} failed", error)

    return imported
