"""A step function of a trainer as the body of a loop of one iteration, which the host can run again.

The loop is a text of our own, rewritten like the user's: the machinery of the re-yield does the rest. Its one name
stands for the batch, so that samples can be replaced. States of metrics (torchmetrics) are put back too: they are
neither parameters nor buffers, and every forward pass changes them.
"""

import linecache
import sys
import threading
from collections.abc import Callable, Iterable
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


class MetricStates:
    """Copies of what metrics have summed up so far. Values that are no metrics are passed over."""

    def __init__(self, metrics: Iterable[Any]) -> None:
        torch = sys.modules["torch"]
        self.entries = []
        for metric in metrics:
            if not hasattr(metric, "_defaults"):
                continue
            values = {key: value for key, value in vars(metric).items() if not key.startswith("__")}
            copies = {
                key: value.clone() if isinstance(value, torch.Tensor) else list(value)
                for key, value in values.items()
                if isinstance(value, torch.Tensor) or (isinstance(value, list) and key in metric._defaults)
            }
            plain = {key: value for key, value in values.items() if isinstance(value, (int, float, bool, type(None)))}
            self.entries.append((metric, copies, plain))

    def restore(self) -> None:
        for metric, copies, plain in self.entries:
            vars(metric).update(plain)
            for key, copy in copies.items():
                vars(metric)[key] = list(copy) if isinstance(copy, list) else copy.clone()
