"""Runs along with the script until enough of its steps are recorded, then ends it."""

import time
import weakref
from collections.abc import Callable
from typing import Any

import torch

from whynan.adapters.torch.check.facts import Facts
from whynan.adapters.torch.check.program import Program
from whynan.adapters.torch.check.record import Recorder
from whynan.check.graph import Graph
from whynan.launch import host as launch_host
from whynan.launch.host import Unwind
from whynan.launch.rewrite import LoopSite


class Enough(Unwind):
    """The steps that were asked for have been made: the script is left."""


class CheckSite:
    def __init__(self, site: LoopSite, host: "TorchCheck") -> None:
        self.site, self.host = site, host

    def __iter__(self) -> "CheckPass":
        current = CheckPass(self)
        self.host.passes.append(weakref.ref(current))
        return current


class CheckPass:
    def __init__(self, owner: CheckSite) -> None:
        self.owner = owner
        self.started = False
        self.n_events = owner.host.n_events

    def __iter__(self) -> "CheckPass":
        return self

    def __next__(self) -> tuple[()]:
        if not self.started:
            self.started = True
            return ()
        host = self.owner.host
        if host.n_events > max(self.n_events, host.n_handled):
            host.iteration_ended()
        raise StopIteration


class TorchCheck:
    """The adapter of a check: recorder, counts of steps, and the graphs of the steps that were recorded whole."""

    framework = "torch"

    def __init__(self, steps: int) -> None:
        self.steps = max(steps, 2)
        self.recorder = Recorder()
        self.facts = Facts(self)
        self.graphs: list[tuple[Graph, Program]] = []
        self.passes: list[Any] = []
        self.n_events = 0
        self.n_handled = 0
        self.n_backward = 0
        self.n_updates = 0
        self.n_optimizers = 0
        self.n_iterations = 0
        self.is_over = False
        self._undo: list[Callable[[], None]] = []
        self.began = time.monotonic()

    # Attached to the program -----------------------------------------------------------------------------------------

    def attach(self) -> None:
        self._wrap_backward()
        self._wrap_optimizers()
        self._wrap_loader()
        self._wrap_writers()
        self.recorder.modules.enter()
        self.facts.attach(self._swap)
        launch_host.set_host(self)
        self.recorder.__enter__()

    def detach(self) -> None:
        self.is_over = True
        try:
            self.recorder.__exit__(None, None, None)
        except Exception:  # the script's own modes were left above it
            self.recorder.is_muted = True
        self.recorder.modules.leave()
        while self._undo:
            self._undo.pop()()
        launch_host.set_host(launch_host.PlainHost())

    def _swap(self, owner: Any, name: str, new: Any) -> Any:
        old = getattr(owner, name)
        setattr(owner, name, new)
        self._undo.append(lambda: setattr(owner, name, old))
        return old

    def _wrap_backward(self) -> None:
        original = torch.autograd.backward

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            self.backward_from(tensors if isinstance(tensors, (list, tuple)) else [tensors], is_step=True)
            if self.n_optimizers == 0 and not self._alive():
                self.iteration_ended()  # a library's loop with an optimizer of its own, as that of Keras
            return original(tensors, *args, **kwargs)

        self._swap(torch.autograd, "backward", backward)
        first = torch.autograd.grad

        def grad(outputs: Any, *args: Any, **kwargs: Any) -> Any:
            # Without an optimizer the gradients are what an update by hand is made of.
            is_step = self.n_optimizers == 0 and not kwargs.get("create_graph")
            self.backward_from(outputs if isinstance(outputs, (list, tuple)) else [outputs], is_step)
            return first(outputs, *args, **kwargs)

        self._swap(torch.autograd, "grad", grad)

    def _wrap_optimizers(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        init, host = torch.optim.Optimizer.__init__, self

        def __init__(optimizer: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            host.n_optimizers += 1
            init(optimizer, *args, **kwargs)

        self._swap(torch.optim.Optimizer, "__init__", __init__)

        def before(optimizer: Any, args: Any, kwargs: Any) -> None:
            self.recorder.in_optimizer += 1
            self.facts.before_step(optimizer)

        def after(optimizer: Any, args: Any, kwargs: Any) -> None:
            self.recorder.in_optimizer -= 1
            self.n_updates += 1
            self.n_events += 1
            self.facts.after_step(optimizer)
            if not self._alive():
                self.iteration_ended()  # the loop is a library's

        for handle in (register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)):
            self._undo.append(handle.remove)

    def _wrap_loader(self) -> None:
        from torch.utils.data import DataLoader
        from torch.utils.data._utils import fetch

        init = DataLoader.__init__

        def __init__(loader: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            # In this process, so that the data set's own operations are seen.
            args = args[:5] + (0,) + args[6:] if len(args) > 5 else args
            kwargs = {
                k: v
                for k, v in kwargs.items()
                if k
                not in ("num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context", "timeout")
            }
            init(loader, *args, **kwargs)

        self._swap(DataLoader, "__init__", __init__)
        for fetcher in (fetch._MapDatasetFetcher, fetch._IterableDatasetFetcher):
            self._wrap_fetch(fetcher)

    def _wrap_fetch(self, fetcher: Any) -> None:
        original, recorder = fetcher.fetch, self.recorder

        def fetch(self: Any, indices: Any) -> Any:
            was, recorder.is_fetching = recorder.is_fetching, True
            try:
                return original(self, indices)
            finally:
                recorder.is_fetching = was

        self._swap(fetcher, "fetch", fetch)

    def _wrap_writers(self) -> None:
        """Nothing of a check is to be kept: not the script's checkpoints either."""
        self._swap(torch, "save", lambda *args, **kwargs: None)
        self._swap(torch, "compile", _not_compiled)

    # Events ----------------------------------------------------------------------------------------------------------

    def backward_from(self, roots: Any, is_step: bool) -> None:
        self.n_backward += 1
        self.n_events += is_step
        self.facts.first_losses(roots)
        if self.recorder.graph is None:
            return
        for root in roots:
            index = self.recorder.node_of(root) if isinstance(root, torch.Tensor) else None
            if index is not None and index not in self.recorder.graph.roots:
                self.recorder.graph.roots.append(index)

    def _alive(self) -> list[Any]:
        self.passes = [ref for ref in self.passes if ref() is not None]
        return [p for ref in self.passes if (p := ref()) is not None and p.started]

    def iteration_ended(self) -> None:
        """A step is over: what was recorded of it is kept, and the next one begins."""
        if self.is_over:
            return
        self.n_handled = self.n_events
        self.n_iterations += 1
        if self.recorder.graph is not None:
            self.graphs.append(self.recorder.end())
        self.facts.iteration_ended()
        if self.n_iterations >= self.steps:
            self.is_over = True
            raise Enough()
        self._name_parameters()
        self.recorder.begin()

    def _name_parameters(self) -> None:
        self.facts.find_modules()
        self.recorder.parameters, self.recorder.buffers = self.facts.names()
        self.recorder.gradients = self.facts.gradients_at
        self.recorder.modules.paths = self.facts.paths()

    # What rewritten code calls ---------------------------------------------------------------------------------------

    def new_site(self, site: LoopSite) -> Any:
        return CheckSite(site, self)

    def failed(self, index: int) -> bool:
        return False

    def leave(self, value: Any = None) -> Any:
        return value

    def drawn(self, value: Any) -> Any:
        return value

    def asked(self, value: Any) -> Any:
        return value

    def redrawn(self) -> Any:
        raise LookupError("nothing is being replayed")


def _not_compiled(model: Any = None, **options: Any) -> Any:
    return model if model is not None else lambda function: function
