"""Attach to a program that has imported MindSpore, and tell the pipeline what it wants to know of the run."""

from collections.abc import Callable

import mindspore as ms

from whynan.adapters.mindspore.host import MindSporeHost
from whynan.launch import host as launch_host
from whynan.launch.options import RunOptions
from whynan.live.pulse import Pulse
from whynan.records import Incident


class MindSporeAdapter:
    """MindSpore's side of a watched run."""

    framework = "mindspore"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = MindSporeHost(options, record)
        self.host.watch.install()

    def claim_loops(self) -> None:
        launch_host.set_host(self.host.loops)

    def when_it_trains(self, tell: Callable[[], None]) -> None:
        self.host.watch.on_first_gradient = tell

    def versions(self) -> dict[str, str]:
        return {"mindspore": str(ms.__version__)}

    def device(self) -> str | None:
        return str(ms.get_context("device_target")).lower()

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
        self.host.watch.uninstall()
        if launch_host.current_host() is self.host.loops:
            launch_host.set_host(launch_host.PlainHost())
