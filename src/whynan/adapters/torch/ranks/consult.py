"""What the ranks tell each other of a failing step, and attempts that all make because one of them says so.

The rank that explains leaves an order for each attempt: remedies that take several steps to show. The others make the
same change and run the same steps, collectives included. Each update begins with a flag: what one rank has seen ends
the attempt on all, at the same place.
"""

import itertools
import os
import socket
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from whynan.adapters.torch import explain
from whynan.adapters.torch.attempt import Attempt, Decision
from whynan.adapters.torch.experiments import run
from whynan.adapters.torch.experiments.change import Change
from whynan.adapters.torch.ranks.alone import why_not_alone
from whynan.adapters.torch.samples import SampleSearch
from whynan.records import Incident

if TYPE_CHECKING:
    from whynan.adapters.torch.attempt import Outcome
    from whynan.adapters.torch.plan import Plan
    from whynan.adapters.torch.ranks.verdict import Ranks
    from whynan.adapters.torch.windows import Window

Key = tuple[int, int, int]
"""A window: its loop, the step at which it begins, how many iterations it has."""
_MARGIN_S = 10.0
"""How long the others wait for a rank beyond the time that it has for its explanation."""


@dataclass(frozen=True)
class Order:
    """One attempt. `slug` and `number` name the remedy's change, "" for none; without a window there is no more."""

    window: Key | None = None
    slug: str = ""
    number: int = 0
    goal: int | None = None
    norms: tuple[float, ...] = ()
    momentum: float | None = None


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
        norms, optimizer = tuple(experiments.evidence.history.grad_norm), experiments.evidence.optimizer
        momentum = optimizer.momentum if optimizer is not None else None
        attempts = experiments.window_attempts(sorted(self.windows.values(), key=lambda window: len(window.items)))
        for attempt in attempts:
            key = next(key for key, window in self.windows.items() if window is attempt.window)
            change = attempt.change
            named = (change.slug, change.number) if change else ("", 0)
            self._put(Order(key, *named, attempt.goal, norms, momentum))
            yield replace(attempt, together=True, ordered=True)
            plan.known = experiments.concluded()
            if plan.outcome.error is not None:
                break  # the ranks may have come apart
        experiments.notes.append("what takes several steps was tried by all ranks in step")

    def close(self) -> None:
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
    if not order.slug:
        return None
    optimizer = SimpleNamespace(momentum=order.momentum)
    known: Any = SimpleNamespace(history=SimpleNamespace(grad_norm=order.norms), optimizer=optimizer)
    return next(itertools.islice(run.TRAINING[order.slug](plan, known), order.number, None))


@dataclass(frozen=True)
class Finding:
    """What one rank knows after its replay."""

    rank: int
    host: str
    was_bad_here: bool
    reproduced: bool
    missed: bool
    is_mixed: bool
    """Whether other ranks' values should have been on the way to the symptom."""
    name: str
    kind: str
    windows: frozenset[Key] = field(default_factory=frozenset)
    """What it can run again of the steps before."""


def attempts(plan: "Plan") -> Generator[Attempt, None, Decision]:
    """The plan of one rank: replay alone, ask the others, then explain or wait for who does."""
    ranks = plan.host.ranks
    job = ranks.job
    assert job is not None
    ranks.n_incidents += 1
    key = f"incident/{ranks.n_incidents}"
    seconds = plan.host.options.budget + _MARGIN_S
    if job.rank == 0:
        plan.host.preliminary(explain.without_replay(plan, "the ranks had not come to an end of their replays"))
        job.put(f"{key}/written", True)
    else:
        job.get(f"{key}/written", _MARGIN_S)  # a rank that dies in its replay may end the whole job at once
    together = plan.host.known.is_sharded  # none has all of the parameters
    traced = plan.outcome
    findings: list[Finding | None] = []
    guilty: int | None = None
    if not together:
        yield Attempt(traced=True)
        traced = plan.outcome
        if ranks.was_bad_here and not plan.pending.missed:
            while traced.is_finite and plan.n_attempts < 3 and not plan.is_out_of_time():
                yield Attempt(traced=True)
                traced = plan.outcome
        findings = job.exchange(f"{key}/alone", _finding(plan, traced), seconds)
        guilty = choose(findings)
    if together or _is_for_all(findings, guilty):
        # Finite on each rank alone, or made of what others sent: once more with the collectives, in step on all ranks.
        together = True
        yield Attempt(traced=True, together=True)
        traced = plan.outcome
        findings = job.exchange(f"{key}/together", _finding(plan, traced), seconds)
        guilty = choose(findings)
    guilty = _with_earlier(findings, guilty)
    missing = [rank for rank, finding in enumerate(findings) if finding is None]
    speaker = _speaker(findings, guilty)
    if job.rank and findings[0] is None:
        ranks.job, ranks.is_hopeless = None, True  # nobody is left who reports for all: each rank does for itself
        speaker = job.rank
    of_all = [finding.windows for finding in findings if finding is not None]
    orders = Orders(plan, key, of_all[0].intersection(*of_all) if of_all and not missing else frozenset())
    if job.rank == speaker:
        incident = yield from _explained(plan, traced, together, missing, orders)
        orders.close()
        words = _words(plan, findings, guilty, missing, together) if ranks.early is None else []
        incident = replace(incident, notes=(*words, *incident.notes))
        job.put(f"{key}/report", incident)
    else:
        yield from orders.follow(seconds)
        answer = job.get(f"{key}/report", seconds)
        incident = answer if isinstance(answer, Incident) else _unanswered(plan, speaker, seconds)
    return plan.decide(incident)


def attend(ranks: "Ranks") -> Incident | None:
    """Take part in the consultation without a step of one's own: this rank has run out of inputs."""
    job = ranks.job
    assert job is not None
    ranks.n_incidents += 1
    key = f"incident/{ranks.n_incidents}"
    seconds = ranks.host.options.budget + _MARGIN_S
    finding = Finding(job.rank, socket.gethostname(), False, False, True, False, "", "")
    findings = job.exchange(f"{key}/alone", finding, seconds)
    answer = job.get(f"{key}/report", seconds) if _speaker(findings, choose(findings)) != job.rank else None
    return answer if isinstance(answer, Incident) else None


def _with_earlier(findings: list[Finding | None], guilty: int | None) -> int | None:
    earlier = next((f.rank for f in findings if f is not None and f.missed and f.was_bad_here), None)
    return earlier if guilty is None else guilty


def _speaker(findings: list[Finding | None], guilty: int | None) -> int:
    """Return the rank that reports: the guilty one, else the first that has a step to speak of."""
    guilty = _with_earlier(findings, guilty)
    known = [f for f in findings if f is not None]
    return guilty if guilty is not None else min(known, key=lambda f: (f.missed, f.rank)).rank


def _is_for_all(findings: list[Finding | None], guilty: int | None) -> bool:
    """Whether the step has to be run by all ranks together, and all are there to do so."""
    known = [finding for finding in findings if finding is not None]
    if len(known) < len(findings) or any(finding.missed for finding in known):
        return False
    return guilty is None or any(finding.is_mixed for finding in known if finding.reproduced)


def choose(findings: list[Finding | None]) -> int | None:
    """Return the rank that explains: whose own loss was bad and comes out bad again; else who reproduces it at all."""
    known = [finding for finding in findings if finding is not None]
    for group in (
        [f for f in known if f.was_bad_here and f.reproduced],
        [f for f in known if f.reproduced],
    ):
        if group:
            return group[0].rank
    return None


def _finding(plan: "Plan", traced: "Outcome") -> Finding:
    ranks = plan.host.ranks
    assert ranks.job is not None
    name = traced.event.name if traced.event is not None else plan.pending.name
    kind = traced.event.kind if traced.event is not None else plan.pending.kind
    return Finding(
        ranks.job.rank,
        socket.gethostname(),
        ranks.was_bad_here,
        not traced.is_finite,
        plan.pending.missed,
        _is_mixed(traced),
        name,
        kind,
        frozenset(windows_of(plan)),
    )


def _is_mixed(traced: "Outcome") -> bool:
    tensors = traced.event.tensors if traced.event is not None else []
    return traced.tracer is not None and any(traced.tracer.depends_on_others(t) for t in tensors)


def _explained(
    plan: "Plan", traced: "Outcome", together: bool, missing: list[int], orders: Orders
) -> Generator[Attempt, None, Incident]:
    if plan.host.ranks.early is not None:
        return plan.host.ranks.early
    if plan.pending.missed:
        return explain.without_replay(
            plan, "it happened in an earlier micro-batch of this update, which was over by then"
        )
    search = SampleSearch(plan, traced)
    if missing and traced.is_finite:
        error = traced.error
        here = "the step is finite on those that did" if error is None else f"the step raised {type(error).__name__}"
        return explain.without_replay(plan, f"{_ranks(missing)} did not answer; {here}")
    why = why_not_alone(plan, plan.gathered) if together else None
    if why is not None:
        search.find_by_elements()  # each replay would need all ranks
    elif not traced.is_finite:
        plan.progress.stage("looking for the sample")
        yield from _by_itself(plan, search.attempts(), together)
    # Nobody answers what tensors of shards ask the others for while they are described.
    with plan.host.ranks.alone(_is_of_no_account) if together else nullcontext():
        incident = plan.known = explain.incident(plan, traced, search)
    if traced.is_finite or not plan.is_to_be_proved(incident) or plan.evidence is None:
        return incident
    from whynan.adapters.torch.experiments.run import Experiments

    experiments = Experiments(plan, traced, search, incident, plan.evidence)
    if why is not None:
        experiments.put_aside()
        experiments.notes.append(f"no remedy was tried on the step alone: {why}")
        yield from orders.give(experiments)
        return experiments.concluded()
    if together:
        words = "remedies were tried on this rank's part of the step, up to the update, with what all ranks had sent"
        experiments.notes.append(words)
    for attempt in _by_itself(plan, experiments.step_attempts(), together):
        yield attempt
        plan.known = experiments.concluded()
    if not together or plan.outcome.error is None:
        yield from orders.give(experiments)
    return experiments.concluded()


def _by_itself(
    plan: "Plan", attempts: Generator[Attempt, None, None], together: bool
) -> Generator[Attempt, None, None]:
    """Yield attempts as they are; of a sharded model with what the others gave in the place of them."""
    for attempt in attempts:
        yield replace(attempt, together=True, gathered=plan.gathered) if together else attempt
        if together and plan.outcome.error is not None:
            break  # it left `fully_shard` in the middle of a layer


def _is_of_no_account(tensor: object) -> None:
    """What is only described is answered by anything."""


def _words(
    plan: "Plan", findings: list[Finding | None], guilty: int | None, missing: list[int], together: bool
) -> list[str]:
    size = len(findings)
    known = [finding for finding in findings if finding is not None]
    words = []
    if guilty is not None:
        place = next(f.host for f in known if f.rank == guilty)
        how = "with all ranks in step" if together else "by itself"
        words.append(f"rank {guilty} of {size} on {place}: the step was run again {how}; sample and line are its own")
        others = [f.rank for f in known if f.reproduced and f.rank != guilty]
        if others and not together:
            words.append(f"non-finite in the same step on {_ranks(others)}, too")
    elif not missing:
        where = ", ".join(f"rank {f.rank} on {f.host}" for f in known[:8])
        words.append(f"no rank reproduces it, neither alone nor in step: {where}; a machine may be at fault")
    if missing:
        words.append(f"{_ranks(missing)} did not answer in time")
    return words


def _ranks(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"


def _unanswered(plan: "Plan", speaker: int, seconds: float) -> Incident:
    return explain.without_replay(
        plan, f"rank {speaker} did not answer within {seconds:.0f} s (process {os.getpid()} waited)"
    )
