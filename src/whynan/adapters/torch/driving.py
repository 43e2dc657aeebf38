"""Drives the replay of an iteration, attempt by attempt, in the order of its plan; or traces it while it happens.

A plan's order: the traced attempt, the sample, the diagnosis, the experiments, the decision.
"""

from collections.abc import Generator
from types import FrameType
from typing import TYPE_CHECKING, Any

from whynan.adapters.torch import explain, sources
from whynan.adapters.torch.attempt import Attempt, Decision, Outcome, Pending
from whynan.adapters.torch.experiments.run import Experiments
from whynan.adapters.torch.lookback import Looking
from whynan.adapters.torch.plan import Plan
from whynan.adapters.torch.ranks import consult
from whynan.adapters.torch.samples import SampleSearch
from whynan.adapters.torch.sites import Event, Leaving, Pass, Site
from whynan.adapters.torch.snapshot import OptimizerCopy, Snapshot
from whynan.adapters.torch.trace import Tracer
from whynan.launch.host import tell
from whynan.launch.rewrite import LoopSite
from whynan.records import Incident, ReplayResult
from whynan.replay import Request
from whynan.snapshot import NamesSnapshot, frame_values
from whynan.trace import Leaf

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost

_N_TRIES = 3
"""Replays that must all come out finite before a failure is called non-reproducible."""
_EPOCHS_SHARE = 0.05
"""Of the time for an incident: a traced epoch takes many times as long as a plain one."""


def attempts(plan: "Plan") -> Generator[Attempt, None, Decision]:
    """Yield what the iteration is run again for; return what is to become of it."""
    target = plan.target
    if plan.host.ranks.is_joint and plan.host.ranks.agreed:
        if goes_on(plan):
            plan.after = snapshot_after(plan)
        sources.batch_origin(plan)
        return (yield from consult.attempts(plan))
    if plan.host.known.is_sharded and plan.host.ranks.is_among_others:
        return plan.without_replay("the model's parameters are spread over ranks that did not come to this place")
    plan.progress.stage(f"{plan.pending.symptom().what} is {plan.pending.kind}; replaying step {plan.pending.step}")
    if goes_on(plan):
        plan.after = snapshot_after(plan)
    if target.elapsed > plan.host.options.budget:
        return plan.without_replay(
            f"one iteration takes {target.elapsed:.0f} s, more than --budget {plan.host.options.budget:g}"
        )
    if target.trained and plan.pending.stage == "validation" and not is_epoch_to_be_run_again(plan):
        return plan.without_replay("the epoch around the validation is not run again")
    sources.batch_origin(plan)  # while the names still stand for the batch itself
    yield Attempt(traced=True)
    traced = plan.outcome
    while traced.is_finite and plan.n_attempts < _N_TRIES and not plan.is_out_of_time():
        yield Attempt(traced=True)  # before saying that it does not reproduce
        traced = plan.outcome
    outer = outer_to_ask(plan, traced)
    if is_innocent(plan, traced):
        if outer is None or not _only_adds_up(plan, traced):
            return Decision("innocent")
        plan.pending.is_asked_around = True
        plan.pending.step = outer.owner.n_passes - 1 if plan.pending.stage == "validation" else plan.pending.step
        return Decision("escalate", outer=outer)
    if traced.is_finite and plan.pending.inner is not None:
        return plan.decide(plan.pending.inner)  # the iteration inside did reproduce it
    if outer is not None:
        plan.pending.inner = explain.incident(plan, traced, SampleSearch(plan, traced))
        return Decision("escalate", outer=outer)
    search = SampleSearch(plan, traced)
    if not traced.is_finite:
        plan.progress.stage("looking for the sample")
        yield from search.attempts()
    incident = plan.known = explain.incident(plan, traced, search)
    if traced.is_finite:
        return plan.decide(incident)
    experiments = None
    if plan.is_to_be_proved(incident):
        assert plan.evidence is not None
        experiments = Experiments(plan, traced, search, incident, plan.evidence)
        yield from step_experiments(plan, experiments)
    looking = Looking(plan, search, incident)
    if is_looked_back(plan):
        yield from looking.attempts()
    if experiments is None:
        return plan.decide(looking.added(incident))
    experiments.incident = looking.added(experiments.incident)
    plan.known = experiments.concluded()
    outer = outer_for(plan, experiments)
    if outer is not None:
        return Decision("experiment", plan.known, outer, experiments)
    return plan.decide(plan.known)


def step_experiments(plan: "Plan", experiments: Experiments) -> Generator[Attempt, None, None]:
    """Try the remedies on this iteration, then over the iterations before it."""
    for attempt in experiments.step_attempts():
        yield attempt
        plan.known = experiments.concluded()
    if experiments.wants_window() and not plan.pending.is_early and not _is_around_validation(plan):
        yield from experiments.window_attempts(plan.host.loops.windows.of(plan.target))
    plan.known = experiments.concluded()


def is_looked_back(plan: "Plan") -> bool:
    """Whether the steps before are run once more to be looked into: only where the run ends anyway."""
    goes = goes_on(plan) or plan.pending.is_early  # up to the update, in step with the other ranks
    return plan.host.options.policy == "stop" and not goes and not plan.is_out_of_time()


def outer_for(plan: "Plan", experiments: Experiments) -> Pass | None:
    """Return the iteration around this one in which the experiments that are left can be made.

    Going there leaves this loop for good: only where the run ends anyway.
    """
    if plan.host.options.policy != "stop" or goes_on(plan) or not experiments.wants_window():
        return None
    if _is_around_validation(plan):
        return None
    around = plan.host.loops.on_stack(plan.target.frame)
    around = around[around.index(plan.target) + 1 :] if plan.target in around else []
    return next((c for c in around if plan.host.loops.windows.of(c)), None)


def _is_around_validation(plan: "Plan") -> bool:
    """Whether a validation loss went wrong in an epoch that trained: training steps alone would not show it."""
    return plan.pending.stage == "validation" and plan.target.trained


def experiments_of(plan: "Plan", experiments: Experiments) -> Generator[Attempt, None, Decision]:
    """Go on, in an outer loop, with what an inner plan has left to try."""
    experiments.plan = plan
    plan.evidence = experiments.evidence
    plan.known = experiments.concluded()
    yield from experiments.window_attempts(plan.host.loops.windows.of(plan.target))
    plan.known = experiments.concluded()
    outer = outer_for(plan, experiments)
    if outer is not None:
        return Decision("experiment", plan.known, outer, experiments)
    return plan.decide(plan.known)


def snapshot_after(plan: "Plan") -> Snapshot:
    frame: FrameType = plan.target.frame
    after = Snapshot(frame, plan.target.site, plan.host.known, small_tensors=True, gradients=True)
    site = plan.target.site
    after.names = NamesSnapshot(frame, site.assigned | site.targets, frame_values(frame))
    for optimizer in plan.host.known.optimizers:
        after.save_before_step(optimizer, OptimizerCopy(optimizer))
    return after


def goes_on(plan: "Plan") -> bool:
    """Whether the script may go on after this plan as if nothing had been."""
    return (
        plan.host.options.policy == "observe"
        or plan.pending.was_skipped
        or plan.pending.stage == "validation"
        or not plan.pending.differentiable
    ) and not plan.pending.leaves


def is_epoch_to_be_run_again(plan: "Plan") -> bool:
    """Whether training is repeated to come to a validation loss: a short epoch, and only where the run ends anyway."""
    return plan.host.options.policy == "stop" and plan.target.elapsed <= _EPOCHS_SHARE * plan.host.options.budget


def is_innocent(plan: "Plan", traced: Outcome) -> bool:
    """A number read in a validation loop is a loss only if it depends on the parameters, and is called like one."""
    if (
        plan.pending.is_loss
        or plan.pending.when not in ("read", "exit")
        or plan.pending.differentiable
        or plan.pending.leaves
    ):
        return False
    if traced.is_finite or traced.tracer is None or traced.event is None:
        return True
    if plan.pending.is_asked_around and traced.slice is not None:
        # Of what a dictionary held only that counts which came out of a loss function: there are metrics in some.
        path = {record.index for record in traced.slice.path}
        return not any(call.index in path for call in traced.tracer.trace.loss_calls)
    return not explain.is_loss(traced.tracer, traced.event, plan.pending)


def outer_to_ask(plan: "Plan", traced: Outcome) -> Pass | None:
    """Where the trace ends at something that this iteration did not make, the iteration around it may tell."""
    leaf = traced.slice.leaf if traced.slice is not None else None
    unknown = traced.slice is None and not traced.is_finite and traced.event is not None and bool(traced.event.tensors)
    if not unknown and (leaf is None or not _may_be_made_around(leaf, plan, traced)):
        return None
    outer = plan.host.outer_of(plan.target)
    if outer is None or outer.elapsed > max(2.0, 0.25 * plan.host.options.budget):
        return None
    return outer


def _may_be_made_around(leaf: Leaf, plan: Plan, traced: Outcome) -> bool:
    """Whether a tensor is a result: of the code around this iteration, or of the one before it, whatever its name."""
    snapshot, targets = plan.target.snapshot, plan.target.site.targets
    carried = snapshot.names.values if snapshot is not None else {}
    if any(sources.storage_key(value) == leaf.key for name, value in carried.items() if name not in targets):
        return True
    role, _ = sources.role_of(leaf, plan, traced)
    return role in ("computed", "gradient") or (role == "batch" and _only_adds_up(plan, traced))


def _only_adds_up(plan: Plan, traced: Outcome) -> bool:
    """Whether this is a loop over numbers that the iteration around has made: `for name, loss in losses.items()`."""
    leaf = traced.slice.leaf if traced.slice is not None else None
    if leaf is None or leaf.summary.shape != () or plan.target.trained or traced.tracer is None:
        return False
    return not any(record.name in sources.LAYERS for record in traced.tracer.trace.records.values())


def go_on(host: "TorchHost", current: Pass) -> bool:
    """Drive the plan by one attempt; act on its decision when it has come to one."""
    plan = host.plan
    assert plan is not None
    try:
        decision = plan.next()
    except KeyboardInterrupt:
        plan.abort()
        host.plan = None
        raise
    except Exception as error:
        plan.leave_attempt()
        tell("explaining a step failed", error)
        decision = plan.failed_decision(error)
    if decision is None:
        return True
    host.plan = None
    return act(host, decision, plan, current)


def act(host: "TorchHost", decision: Decision, plan: Plan, current: Pass) -> bool:
    """Do what a plan has decided; return whether the iteration is to run once more."""
    host.pending, host.looks.read = None, None
    if decision.kind == "early":
        host.ranks.leave_out(decision.incident)
        host.note_end(current)
        return False
    if host.ranks.is_among_others and not host.ranks.agreed:
        host.ranks.went_alone = host.ranks.went_alone or decision.kind == "stop"
    host.ranks.begin_anew()
    if decision.kind == "experiment":
        assert decision.outer is not None
        host.left_to_do = decision.experiments
        host.pending = plan.pending
        host.pending.target = decision.outer
        raise Leaving(decision.outer)
    if decision.incident is not None:
        if plan.pending.was_skipped:
            host.looks.provisional = decision.incident
        else:
            host.record(decision.incident)
            # Where nothing is changed, all that comes after a training step like that follows from it.
            host.is_over = host.options.policy == "observe" and plan.pending.stage == "train"
    host.n_undone += plan.undid_step
    if decision.kind == "stop":
        host.is_over = True
        host.watch.enabled = False
        raise Leaving(None)
    if decision.kind == "escalate":
        outer = decision.outer
        assert outer is not None
        host.pending = plan.pending
        host.pending.target = outer
        raise Leaving(outer)
    if decision.kind == "innocent" and plan.pending.line is not None:
        host.looks.innocent_lines.add(plan.pending.line)
    if decision.kind == "run-for-real":
        host.is_over = True  # nothing more is looked at: the script goes the way it wanted
        host.watch.enabled = False
        host.unheard = (plan.quiet, current)  # all that it prints has been printed
        plan.quiet.enter()
        return True
    host.note_end(current)
    return host.belated.goes_on(current, plan.undid_step)


def explain_without_replay(host: "TorchHost", pending: Pending, is_in_loop: bool) -> None:
    """Say what watching alone has told."""
    plan = Plan(host, None, pending)
    decision = plan.without_replay(
        "the model's parameters are spread over the ranks, which are not asked to run it again"
        if host.known.is_sharded
        else "the state before this iteration was not kept: iterations are too short for that"
        if is_in_loop
        else "no loop of the script was under way that could be run again"
    )
    host.pending = None
    if decision.incident is not None:
        host.record(decision.incident)
    host.is_over = True
    host.watch.enabled = False
    if host.options.policy == "stop":
        raise Leaving(None)


class InlineTrace:
    """Traces from the step before the failing one on."""

    def __init__(self, host: "TorchHost", request: Request) -> None:
        self.host = host
        self.request = request
        self.tracer: Tracer | None = None

    def begin_if_due(self, n_steps: int) -> None:
        if self.tracer is None and n_steps >= self.request.step - 1:
            self.tracer = Tracer(is_in_optimizer=lambda: self.host.watch.in_optimizer)
            self.tracer.taint(self.host.known.parameters())
            self.tracer.modules.enter()
            self.tracer.__enter__()

    def is_it(self, event: Event) -> bool:
        return self.tracer is not None and event.what == self.request.what

    def explain(self, event: Event, pending: Pending, frame: Any) -> Incident:
        tracer = self.tracer
        assert tracer is not None
        tracer.pause()
        target = pending.target or self._whole_program(frame)
        plan = _InlinePlan(self.host, target, pending)
        outcome = Outcome(event=event, tracer=tracer)
        plan.outcome = outcome
        self.host.known.meet({**frame.f_globals})
        tracer.modules.name_from(self.host.known.roots())
        outcome.slice = explain.slice_of(tracer, event, self.host.known)
        outcome.frames = explain.live_namespaces(frame)
        outcome.terms = explain.terms_of(tracer, event, outcome)
        search = SampleSearch(plan, outcome)
        search.find_by_elements()
        return explain.incident(plan, outcome, search)

    def end(self) -> None:
        if self.tracer is not None:
            self.tracer.__exit__(None, None, None)
            self.tracer.modules.leave()
            self.tracer = None

    def _whole_program(self, frame: Any) -> Pass:
        """Return the user's innermost frame as if it were one iteration of a loop."""
        code = frame.f_code
        site = LoopSite(
            -1, code.co_filename, code.co_qualname, 1, 1, 1_000_000, frozenset(), frozenset(), code.co_firstlineno
        )
        return Pass(Site(site, self.host.loops), frame, self.host.loops)


class _InlinePlan(Plan):
    def replay_result(self, traced: Outcome) -> ReplayResult:
        return ReplayResult(True, "rerun", None)
