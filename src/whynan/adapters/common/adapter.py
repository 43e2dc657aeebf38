"""What the pipeline wants to know of a run, from the parts that every adapter but PyTorch's has."""

from collections.abc import Callable
from typing import Any, Protocol

from whynan.adapters.common.run import Run
from whynan.launch import host as launch_host
from whynan.live.pulse import Pulse
from whynan.records import Incident


class Watching(Protocol):
    """What is patched while a run is watched."""

    on_first_gradient: Callable[[], None] | None

    def install(self) -> None:
        """Begin to watch."""

    def uninstall(self) -> None:
        """Put all back."""


class CommonAdapter:
    """A framework's side of a watched run; `loops` answers the rewritten loops, `watch` may be None."""

    framework: str

    def __init__(self, run: Run, loops: launch_host.PlainHost, watch: Watching | None = None) -> None:
        self.run = run
        self.loops = loops
        self.watch = watch
        if watch is not None:
            watch.install()

    def claim_loops(self) -> None:
        launch_host.set_host(self.loops)

    def when_it_trains(self, tell: Callable[[], None]) -> None:
        """Have `tell` called at the first gradient; where there are none to be seen, the loops are what there is."""
        if self.watch is not None:
            self.watch.on_first_gradient = tell

    def n_steps(self) -> int:
        return self.run.n_steps

    def live(self, pulse: Pulse) -> None:
        self.run.history.on_step = pulse.step

    def history(self) -> dict[str, tuple[float, ...]]:
        return self.run.history.as_dict()

    def growing_since(self) -> int | None:
        return self.run.growth.since

    def skipped(self) -> tuple[Incident, ...]:
        return tuple(self.run.skipped)

    def pending_incident(self) -> Incident | None:
        return None

    def detach(self) -> None:
        self.run.is_over = True
        if self.watch is not None:
            self.watch.uninstall()
        if launch_host.current_host() is self.loops:
            launch_host.set_host(launch_host.PlainHost())


def attached(kind: Callable[[Any], Any], host: Any, keras: Any) -> Any:
    """Return Keras' side of a run on this host's framework; None where this Keras can't be watched."""
    try:
        return kind(host)
    except (ImportError, AttributeError) as error:
        launch_host.tell(f"watching Keras {keras.__version__} is not possible", error)
        return None
