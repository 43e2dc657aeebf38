"""Attach to a program that has imported torch, and tell the pipeline what it wants to know of the run."""

import os
from collections.abc import Callable
from typing import Any

import torch

from whynan.adapters.common.run import attached
from whynan.adapters.torch import trainers
from whynan.adapters.torch.data import loader
from whynan.adapters.torch.driving import InlineTrace
from whynan.adapters.torch.host import TorchHost, device_of
from whynan.adapters.torch.run_facts import optimizer_of
from whynan.adapters.torch.trail import terms_now
from whynan.launch import RunOptions
from whynan.launch import host as launch_host
from whynan.launch.spawned import is_adopted
from whynan.live import Pulse
from whynan.records import Incident, OptimizerFacts
from whynan.replay import Request


class TorchAdapter:
    """PyTorch's side of a watched run."""

    framework = "torch"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = TorchHost(options, record)
        loader.install()
        self.host.watch.install()
        self._trainers = trainers.install(self.host)
        self._keras: Any = None
        self.host.ranks.install(self._trainers)
        self.on_adopted: Callable[[], None] = lambda: None
        os.register_at_fork(after_in_child=self._forked)

    def attach_keras(self, keras: Any) -> None:
        """Watch Keras' `fit` too; called when Keras runs on PyTorch."""
        if self._keras is None and not self.host.is_over:
            from whynan.adapters.keras.torch import KerasOnTorch

            self._keras = attached(KerasOnTorch, self.host, keras)

    def _forked(self) -> None:
        """A child made by a fork is none of our business, unless it is to train: it runs as it would without us."""
        if is_adopted():
            self.host.loops.forget()
            self.on_adopted()
            return
        self.host.is_over = True
        self.host.watch.enabled = False

    def trace_inline(self, request: Request) -> None:
        """Trace the step of the request while it happens: the script was started again for that."""
        self.host.inline = InlineTrace(self.host, request)
        self.host.inline.begin_if_due(0)

    def claim_loops(self) -> None:
        launch_host.set_host(self.host)

    def when_it_trains(self, tell: Callable[[], None]) -> None:
        self.host.watch.on_first_gradient = tell

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__} | ({"keras": self._keras.version} if self._keras is not None else {})

    def device(self) -> str | None:
        return device_of(self.host.known)

    def n_steps(self) -> int:
        return self.host.watch.n_steps

    def live(self, pulse: Pulse) -> None:
        self.host.watch.history.on_step = pulse.step
        pulse.terms_now = terms_now

    def history(self) -> dict[str, tuple[float, ...]]:
        return self.host.watch.history.as_dict()

    def optimizer_facts(self) -> OptimizerFacts | None:
        return optimizer_of(self)

    def growing_since(self) -> int | None:
        return self.host.watch.growth.since

    def skipped(self) -> tuple[Incident, ...]:
        return tuple(self.host.looks.skipped)

    def pending_incident(self) -> Incident | None:
        self.host.belated.hear_the_rest()
        return self.host.looks.provisional

    def rank(self) -> int:
        known = self.host.ranks.rank
        return known if known is not None else trainers.rank_of_environment()

    def is_joint(self) -> bool:
        return self.host.ranks.is_joint and not self.host.ranks.went_alone

    def claim_report(self) -> bool:
        """Whether this process, of several that failed by themselves, is the one whose report stands for the job."""
        return self.host.ranks.claim_report()

    def is_report_claimed(self) -> bool:
        return self.host.ranks.is_report_claimed()

    def meet_after_saving(self) -> None:
        """Rank 0's report is written before any rank ends: a launcher ends the others as soon as one has failed."""
        job = self.host.ranks.job
        if job is None or not self.host.ranks.n_incidents:
            return
        if job.rank == 0:
            job.put("saved", True)
        else:
            job.get("saved", 30.0)

    def detach(self) -> None:
        self.host.is_over = True
        self.host.first_proposals.stop()
        self.host.watch.enabled = False
        self._trainers.undo()
        if self._keras is not None:
            self._keras.undo()
        self.host.watch.uninstall()
        loader.uninstall()
        launch_host.set_host(launch_host.PlainHost())
