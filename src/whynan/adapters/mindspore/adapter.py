"""Attach to a program that has imported MindSpore, and tell the pipeline what it wants to know of the run."""

from collections.abc import Callable

import mindspore as ms

from whynan.adapters.common.run import CommonAdapter
from whynan.adapters.mindspore.host import MindSporeHost
from whynan.launch.options import RunOptions
from whynan.records import Incident


class MindSporeAdapter(CommonAdapter):
    """MindSpore's side of a watched run."""

    framework = "mindspore"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = MindSporeHost(options, record)
        super().__init__(self.host.run, self.host.loops, self.host.watch)

    def versions(self) -> dict[str, str]:
        return {"mindspore": str(ms.__version__)}

    def device(self) -> str | None:
        return str(ms.get_context("device_target")).lower()
