"""Attach to a program that has imported JAX, and tell the pipeline what it wants to know of the run."""

from collections.abc import Callable
from typing import Any

import jax

from whynan.adapters.jax.host import JaxHost
from whynan.launch import host as launch_host
from whynan.launch.host import tell
from whynan.launch.options import RunOptions
from whynan.live.pulse import Pulse
from whynan.records import Incident


class JaxAdapter:
    """JAX's side of a watched run, with Keras on top of it where the program imports that."""

    framework = "jax"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = JaxHost(options, record)
        self.host.watch.install()

    def attach_keras(self, keras: Any) -> None:
        """Called when the program has imported Keras with this backend."""
        if self.host.keras is not None or self.host.run.is_over:
            return
        from whynan.adapters.keras.jax import KerasOnJax

        try:
            self.host.keras = KerasOnJax(self.host)
        except (ImportError, AttributeError) as error:
            tell(f"watching Keras {keras.__version__} is not possible", error)

    def claim_loops(self) -> None:
        """Steps are calls of the program's functions, whatever loop they stand in; some loops update by hand."""
        launch_host.set_host(self.host.loops)

    def when_it_trains(self, tell: Callable[[], None]) -> None:
        self.host.watch.on_first_gradient = tell

    def versions(self) -> dict[str, str]:
        versions = {"jax": jax.__version__}
        if self.host.keras is not None:
            versions["keras"] = self.host.keras.version
        return versions

    def device(self) -> str | None:
        return str(jax.default_backend())

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
        """Look at the last calls, whose results nobody has waited for."""
        if not self.host.run.is_over:
            self.host.is_ending = True
            try:
                self.host.watch.settle()
            except Exception as error:
                tell("looking at the last step failed", error)
        return self.host.at_end

    def detach(self) -> None:
        self.host.run.is_over = True
        self.host.watch.uninstall()
