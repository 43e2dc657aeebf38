"""Launchers of trainers that start the script once more for each further rank: those are watched like the first."""

import os
import sys
from typing import TYPE_CHECKING, Any

from whynan.adapters.common.patches import Patches

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


def patch_subprocess(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let Lightning's `ddp` start its other ranks under `whynan run` with this run's options."""
    options = host.options
    if options.script is None and options.module is None:
        return  # a watch in a program of one's own

    def wrapped(original: Any) -> Any:
        def command(*args: Any, **kwargs: Any) -> Any:
            found = original(*args, **kwargs)
            program = list(found[0] if isinstance(found, tuple) else found)
            if program[0] != sys.executable or program[1:3] == ["-m", "whynan"]:
                return found
            watched = [sys.executable, "-m", "whynan", "run", *options.flags(), *program[1:]]
            return (watched, *found[1:]) if isinstance(found, tuple) else watched

        return command

    for name in ("_basic_subprocess_cmd", "_hydra_subprocess_cmd"):
        if hasattr(module, name):
            patches.replace(module, name, wrapped)


def rank_of_environment() -> int:
    """Return this process's number as launchers say it, 0 where none does."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)
