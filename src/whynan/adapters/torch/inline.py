"""A second run of the script: the failing step is traced while it happens, so nothing needs to be put back."""

from typing import TYPE_CHECKING, Any

from whynan.adapters.torch import explain
from whynan.adapters.torch.attempt import Outcome, Pending
from whynan.adapters.torch.event import Event
from whynan.adapters.torch.plan import Plan
from whynan.adapters.torch.samples import SampleSearch
from whynan.adapters.torch.sites import Pass, Site
from whynan.adapters.torch.trace import Tracer
from whynan.launch.rewrite import LoopSite
from whynan.records import Incident, ReplayResult
from whynan.replay.rerun import Request

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


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
