"""`whynan.ignite.Watch`: attached to an Ignite engine that trains."""

import inspect
from typing import Any

from ignite.engine import Events

from whynan.adapters.torch.trainers import repeatable
from whynan.api.trainers import TrainerWatch


class Watch(TrainerWatch):
    """Watch an Engine's `run`; options are those of `TrainerWatch`.

    whynan.ignite.Watch().attach(trainer)
    """

    def attach(self, engine: Any) -> None:
        """Let the engine's process function be run again where it fails; the watch ends with the engine's run."""
        code = getattr(inspect.unwrap(engine._process_function), "__code__", None)
        if code is not None:
            self._engine.know(code.co_filename)
        engine._process_function = repeatable(self._engine.host, engine._process_function)
        engine.add_event_handler(Events.COMPLETED, self.close)
