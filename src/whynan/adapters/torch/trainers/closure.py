"""A step function of a trainer as the body of a loop of one iteration, which the host can run again.

The loop is a text of our own, rewritten like the user's: the machinery of the re-yield does the rest. Its one name
stands for the batch, so that samples can be replaced.
"""

import linecache
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from whynan.adapters.torch.frames import STEP_PREFIX
from whynan.launch import host as launch_host
from whynan.launch.host import Unwind
from whynan.launch.rewrite import rewrite

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost

_SOURCE = "for {batch} in (__batch__,):\n    __step__({batch})\n"


class StepClosure:
    """Runs the steps of one trainer. `name` is what reports call the step, `batch` what they call its argument."""

    def __init__(self, host: "TorchHost", name: str, batch: str = "batch") -> None:
        self.host = host
        filename = f"{STEP_PREFIX}{name}>"
        source = _SOURCE.format(batch=batch)
        rewritten = rewrite(source.encode(), filename)
        # Without a modification time the entry stays where `linecache` checks its files.
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        launch_host.register(filename, rewritten.sites)
        self._code = rewritten.code
        self._thread = threading.get_ident()

    def run(
        self,
        step: Callable[[Any], Any],
        batch: Any,
        *,
        skipped: Callable[[], Any] = lambda: None,
        epoch: int | None = None,
    ) -> Any:
        """Return `step(batch)`; where the step was undone by a recovery, what `skipped` returns."""
        host = self.host
        if host.is_over or host.steps_under_way or threading.get_ident() != self._thread:
            return step(batch)
        results: list[Any] = []

        def called(given: Any) -> None:
            results.append(step(given))

        n_undone = host.n_undone
        names = {"__name__": "__whynan_step__", "__batch__": batch, "__step__": called}
        if epoch is not None:
            names["epoch"] = epoch
        host.steps_under_way += 1
        try:
            exec(self._code, names)
        except Unwind:
            if host.stopped is not None and host.is_over:
                raise host.stopped() from None
            raise
        finally:
            host.steps_under_way -= 1
        if host.n_undone > n_undone or not results:
            return skipped()
        # The first call is the run's own; those after it were replays, except where it did not come to its end.
        return results[0]
