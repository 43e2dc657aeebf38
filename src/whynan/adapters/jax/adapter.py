"""Attach to a program that has imported JAX, and tell the pipeline what it wants to know of the run."""

from collections.abc import Callable
from typing import Any

import jax

from whynan.adapters.common.run import CommonAdapter, attached
from whynan.adapters.jax.host import JaxHost
from whynan.launch import RunOptions
from whynan.launch.host import tell
from whynan.records import Incident


class JaxAdapter(CommonAdapter):
    """JAX's side of a watched run, with Keras on top of it where the program imports that."""

    framework = "jax"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = JaxHost(options, record)
        # Steps are calls of the program's functions, whatever loop they stand in; some loops update by hand.
        super().__init__(self.host.run, self.host.loops, self.host.watch)

    def attach_keras(self, keras: Any) -> None:
        """Called when the program has imported Keras with this backend."""
        if self.host.keras is None and not self.run.is_over:
            from whynan.adapters.keras.jax import KerasOnJax

            self.host.keras = attached(KerasOnJax, self.host, keras)

    def versions(self) -> dict[str, str]:
        return {"jax": jax.__version__} | ({"keras": self.host.keras.version} if self.host.keras is not None else {})

    def rank(self) -> int:
        return int(jax.process_index()) if self.host.hosts.is_joint else 0

    def is_joint(self) -> bool:
        """Whether the first process reports for all."""
        return self.host.hosts.is_joint

    def device(self) -> str | None:
        return str(jax.default_backend())

    def pending_incident(self) -> Incident | None:
        """Look at the last calls, whose results nobody has waited for."""
        if not self.run.is_over:
            self.host.is_ending = True
            try:
                self.host.watch.settle()
            except Exception as error:
                tell("looking at the last step failed", error)
        return self.host.at_end
