"""Drives the replay of an iteration, attempt by attempt, until its plan has decided, and does what that says."""

from typing import TYPE_CHECKING

from whynan.adapters.torch.attempt import Decision, Pending
from whynan.adapters.torch.event import Leaving
from whynan.adapters.torch.plan import Plan
from whynan.adapters.torch.sites import Pass
from whynan.launch.host import tell

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
        host.ranks.early = decision.incident
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
