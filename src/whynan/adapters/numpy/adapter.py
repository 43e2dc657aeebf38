"""Attach to a program that has imported NumPy and no other framework."""

from collections.abc import Callable

import numpy as np

from whynan.adapters.numpy.host import NumpyHost
from whynan.launch import host as launch_host
from whynan.launch.options import RunOptions
from whynan.live.pulse import Pulse
from whynan.records import Incident


class NumpyAdapter:
    """NumPy's side of a watched run."""

    framework = "numpy"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = NumpyHost(options, record)

    def claim_loops(self) -> None:
        launch_host.set_host(self.host.loops)

    def when_it_trains(self, tell: Callable[[], None]) -> None:
        """There are no gradients to be seen: the loops are what there is."""

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def device(self) -> str | None:
        return "cpu"

    def n_steps(self) -> int:
        return self.host.run.n_steps

    def live(self, pulse: Pulse) -> None:
        self.host.run.history.on_step = pulse.step

    def history(self) -> dict[str, tuple[float, ...]]:
        return self.host.run.history.as_dict()

    def growing_since(self) -> int | None:
        return self.host.run.growth.since

    def skipped(self) -> tuple[Incident, ...]:
        return tuple(self.host.run.skipped)

    def pending_incident(self) -> Incident | None:
        return None

    def detach(self) -> None:
        self.host.run.is_over = True
        if launch_host.current_host() is self.host.loops:
            launch_host.set_host(launch_host.PlainHost())
