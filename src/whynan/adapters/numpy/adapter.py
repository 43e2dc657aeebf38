"""Attach to a program that has imported NumPy and no other framework."""

from collections.abc import Callable

import numpy as np

from whynan.adapters.common.run import CommonAdapter
from whynan.adapters.numpy.host import NumpyHost
from whynan.launch.options import RunOptions
from whynan.records import Incident


class NumpyAdapter(CommonAdapter):
    """NumPy's side of a watched run."""

    framework = "numpy"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = NumpyHost(options, record)
        super().__init__(self.host.run, self.host.loops)

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def device(self) -> str | None:
        return "cpu"
