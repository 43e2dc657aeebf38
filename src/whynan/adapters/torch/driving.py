"""Drives the replay of an iteration, attempt by attempt, until its plan has decided; or traces it while it happens."""

from typing import TYPE_CHECKING, Any

from whynan.adapters.torch import explain
from whynan.adapters.torch.attempt import Decision, Outcome, Pending
from whynan.adapters.torch.plan import Plan
from whynan.adapters.torch.samples import SampleSearch
from whynan.adapters.torch.sites import Event, Leaving, Pass, Site
from whynan.adapters.torch.trace import Tracer
from whynan.launch.host import tell
from whynan.launch.rewrite import LoopSite
from whynan.records import Incident, ReplayResult
from whynan.replay import Request

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


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
    return False


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
        """Begin to trace where the run has come far enough."""
        if self.tracer is None and n_steps >= self.request.step - 1:
            self.tracer = Tracer(is_in_optimizer=lambda: self.host.watch.in_optimizer)
            self.tracer.taint(self.host.known.parameters())
            self.tracer.modules.enter()
            self.tracer.__enter__()

    def is_it(self, event: Event) -> bool:
        """Whether this is the event for which the script was started again."""
        return self.tracer is not None and event.what == self.request.what

    def explain(self, event: Event, pending: Pending, frame: Any) -> Incident:
        """Return the incident as the trace of the running step shows it."""
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
