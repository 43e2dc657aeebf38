"""Attempts that all ranks make in step because one of them says so: remedies that take several steps to show.

The rank that explains leaves an order for each attempt. The others make the same change and run the same steps,
collectives included. Each update begins with a flag: what one rank has seen ends the attempt on all, at the same place.
"""

import itertools
from collections.abc import Generator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from whynan.adapters.torch.attempt import Attempt
from whynan.adapters.torch.experiments import run
from whynan.adapters.torch.experiments.change import Change
from whynan.records import Incident

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan
    from whynan.adapters.torch.window import Window

Key = tuple[int, int, int]
"""A window: its loop, the step at which it begins, how many iterations it has."""


@dataclass(frozen=True)
class Order:
    """One attempt. `slug` and `number` name the remedy's change, "" for none; without a window there is no more."""

    window: Key | None = None
    slug: str = ""
    number: int = 0
    goal: int | None = None
    norms: tuple[float, ...] = ()


def windows_of(plan: "Plan") -> dict[Key, "Window"]:
    """Return what this rank could run again in step, where the run is going to end anyway."""
    options = plan.host.options
    if not options.prove or options.policy != "stop" or plan.pending.missed or not plan.host.known.optimizers:
        return {}
    site = plan.target.site.index
    windows = plan.host.loops.windows.of(plan.target)
    usable = [w for w in windows if all(item.is_unchanged() for item in w.items)]
    return {(site, window.n_steps, len(window.items)): window for window in usable}


class Orders:
    """The orders of one incident; `keys` are the windows that all ranks have, without which there are none."""

    def __init__(self, plan: "Plan", place: str, keys: frozenset[Key]) -> None:
        assert plan.host.ranks.job is not None
        self.plan = plan
        self.job = plan.host.ranks.job
        self.place = place
        self.windows = {key: window for key, window in windows_of(plan).items() if key in keys}
        self.n_given = 0

    def give(self, experiments: "run.Experiments") -> Generator[Attempt, None, None]:
        """Yield the attempts over several steps, each as an order to all."""
        plan = self.plan
        # What is made of this rank's own batch no other could make.
        experiments.later = [change for change in experiments.later if change.slug in run.TRAINING]
        if not self.windows or not experiments.wants_window():
            return
        self.job.put(f"{self.place}/so-far", plan.known)
        self._write_down(plan.known)
        norms = tuple(experiments.evidence.history.grad_norm)
        attempts = experiments.window_attempts(sorted(self.windows.values(), key=lambda window: len(window.items)))
        for attempt in attempts:
            key = next(key for key, window in self.windows.items() if window is attempt.window)
            change = attempt.change
            self._put(Order(key, change.slug, change.number, attempt.goal, norms) if change else Order(key))
            yield replace(attempt, together=True, ordered=True)
            plan.known = experiments.concluded()
            if plan.outcome.error is not None:
                break  # the ranks may have come apart
        experiments.notes.append("what takes several steps was tried by all ranks in step")

    def close(self) -> None:
        """Say that there is no more."""
        if self.windows:
            self._put(Order())

    def _put(self, order: Order) -> None:
        self.job.put(f"{self.place}/order/{self.n_given}", order)
        self.n_given += 1

    def _write_down(self, known: Any) -> None:
        if self.job.rank == 0 and isinstance(known, Incident):
            self.plan.host.preliminary(known)

    def follow(self, seconds: float) -> Generator[Attempt, None, None]:
        """Yield the attempts that another rank orders, each of which comes within a time."""
        for number in itertools.count() if self.windows else ():
            order = self.job.get(f"{self.place}/order/{number}", seconds)
            if not isinstance(order, Order) or order.window is None:
                return
            if not number:
                self._write_down(self.job.get(f"{self.place}/so-far", seconds))
            change = _change(self.plan, order)
            mode = change.mode if change is not None else None
            yield Attempt(
                traced=False, is_experiment=True, window=self.windows[order.window], mode=mode, goal=order.goal,
                together=True, ordered=True,
            )  # fmt: skip


def _change(plan: "Plan", order: Order) -> Change | None:
    """Return the same change that the rank has which ordered it."""
    if not order.slug:
        return None
    known: Any = SimpleNamespace(history=SimpleNamespace(grad_norm=order.norms))
    return next(itertools.islice(run.TRAINING[order.slug](plan, known), order.number, None))
