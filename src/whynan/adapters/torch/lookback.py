"""The steps before a failure, run once more with a look inside: gradients and updates by layer, loss terms, proposals.

Watching costs nothing for it: everything is measured in one more replay, of steps that can be run again anyway.
"""

import math
from collections import deque
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch import explain
from whynan.adapters.torch.attempt import Attempt
from whynan.adapters.torch.elements import dense
from whynan.adapters.torch.pictures import ProposalHooks, picture_of, sample_pictures
from whynan.adapters.torch.samples import SampleSearch
from whynan.adapters.torch.trail import layers_of, own
from whynan.adapters.torch.watch import unwrapped
from whynan.adapters.torch.windows import MOST_COPIED, FullCopy, Window
from whynan.launch.host import tell
from whynan.records import Incident, LookBack, Picture
from whynan.watching import MOST_STEPS, most_telling

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost
    from whynan.adapters.torch.plan import Plan

_SHARE = 0.2
"""Of the time that is left for the incident."""


class Looking:
    """Looks back from one incident; `added` is the incident with what was seen."""

    def __init__(self, plan: "Plan", search: SampleSearch, incident: Incident) -> None:
        self.plan = plan
        self.search = search
        self.recorders: list[Recorder] = []
        self.terms = {term.name: float(term.value) for term in incident.loss_terms}

    def attempts(self) -> "Generator[Attempt, None, None]":
        """Yield the attempts that are looked into: of a window if there is one that is short, else of the step."""
        plan = self.plan
        left = plan.deadline - _now()
        windows = [w for w in plan.host.loops.windows.of(plan.target) if all(i.is_unchanged() for i in w.items)]
        short = [w for w in windows if w.elapsed < _SHARE * left]
        hooks = self._hooks()
        whole = short[-1] if short else None
        if whole is not None:
            plan.progress.stage("looking back over the last steps")
            yield Attempt(
                traced=False,
                is_experiment=True,
                window=whole,
                mode=self._recorder(whole, hooks),
                until=_now() + left / 2,
            )
        elif hooks or plan.target.elapsed < _SHARE * left / 2:
            yield Attempt(traced=False, mode=self._recorder(None, hooks))

    def _hooks(self) -> ProposalHooks:
        position = self.search.position if self.search.position is not None else 0
        return ProposalHooks(self.plan.host.known.roots(), self.plan.host.options.boxes_of, position)

    def _recorder(self, window: Window | None, hooks: ProposalHooks) -> "Recorder":
        recorder = Recorder(self.plan, window, tuple(self.terms), hooks)
        self.recorders.append(recorder)
        return recorder

    def added(self, incident: Incident) -> Incident:
        try:
            seen = next((r.look_back(self.terms) for r in reversed(self.recorders) if r.steps), None)
            pictures = [*sample_pictures(self.plan, self.search), *self._proposal_pictures()]
            return replace(incident, look_back=seen, pictures=tuple(pictures))
        except Exception as error:
            tell("looking back failed", error)
            return incident

    def _proposal_pictures(self) -> list[Picture]:
        """Return the failing step's first, then those of the first steps."""
        failing = self.plan.pending.step
        last = [picture_of(p, failing, "in the failing step") for r in self.recorders for p in r.hooks.latest.values()]
        first = [
            picture_of(p, step, f"at step {step}") for step, p in self.plan.host.first_proposals.seen if step < failing
        ]
        return [*last[-2:], *first]


def with_trail(host: "TorchHost", incident: Incident) -> Incident:
    """Return the incident with what watching has seen of the steps before, where these were not run once more.

    The failing step itself may have been: it has the activations then.
    """
    back = incident.look_back
    if back is not None and len(back.steps) > 1:
        return incident
    values = [row[0] for row in back.activation] if back is not None else []
    activation = {name: v for name, v in zip(back.layers, values) if v is not None} if back is not None else {}
    if host.options.policy != "stop":
        why = "the run may go on"
    elif FullCopy.n_bytes(host.known) > MOST_COPIED:
        why = f"a copy of parameters and optimizer state takes more than {MOST_COPIED >> 20} MiB"
    else:
        why = "no copy of the state before them was at hand, or not what they had run on"
    step = host.watch.n_steps if incident.symptom.stage == "validation" else incident.symptom.step
    terms = {term.name: float(term.value) for term in incident.loss_terms if incident.symptom.stage == "train"}
    seen = host.watch.trail.look_back(step, terms, activation, why)
    return replace(incident, look_back=seen)


def _now() -> float:
    import time

    return time.monotonic()


class Recorder:
    """While entered, measures each step: layers by forward hooks and around the update, terms in the user's names."""

    on_gradients = None
    on_returned = None

    def __init__(self, plan: "Plan", window: Window | None, terms: tuple[str, ...], hooks: ProposalHooks) -> None:
        self.plan = plan
        self.first_step = window.n_steps if window is not None else plan.pending.step
        self.terms = terms
        self.hooks = hooks
        self.n_applied = 0
        self.layers = layers_of(plan.host.known.roots())
        self.steps: deque[int] = deque(maxlen=MOST_STEPS)
        self._rows: deque[dict[str, dict[str, float]]] = deque(maxlen=MOST_STEPS)
        self._said: deque[dict[str, float]] = deque(maxlen=MOST_STEPS)
        self._activations: dict[str, Any] = {}
        self._before: dict[int, Any] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        self.plan.host.watch.around_step = self
        for name, module in self.layers.items():
            self._handles.append(module.register_forward_hook(self._hook(name)))
        self.hooks.install()

    def __exit__(self, *exception: object) -> None:
        self.plan.host.watch.around_step = None
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.hooks.remove()
        if self._activations:
            self._add({})  # the failing step itself ends before any update

    def _step(self) -> int:
        return self.first_step + self.plan.n_steps_made()

    def _hook(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            if torch._C._functorch.peek_interpreter_stack() is not None:
                return  # what is made under vmap or grad may not be kept beyond it
            tensor = next(iter(output.values()), None) if isinstance(output, dict) else output
            tensor = tensor[0] if isinstance(tensor, (list, tuple)) and tensor else tensor
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
                with torch.no_grad():
                    largest = unwrapped(tensor).detach().abs().max().float()
                known = self._activations.get(name)
                self._activations[name] = largest if known is None else torch.maximum(known, largest)

        return hook

    def enter_step(self, optimizer: Any) -> None:
        """Before an update: remember the weights that it will change."""
        for module in self.layers.values():
            for parameter in own(module):
                if parameter.grad is not None:
                    self._before[id(parameter)] = parameter.detach().clone()

    def leave_step(self, optimizer: Any) -> None:
        """After an update: gradients, updates and activations of each layer, the loss terms by name."""
        self._add({name: facts for name, module in self.layers.items() if (facts := self._facts(module))})
        self.hooks.latest = {}  # what is left at the end is the failing step's
        self.n_applied += 1

    def _facts(self, module: Any) -> dict[str, float]:
        gradients = dense([p.grad for p in own(module) if p.grad is not None])
        pairs = [(p, self._before[id(p)]) for p in own(module) if id(p) in self._before]
        facts = {}
        if gradients:
            facts["grad_norm"] = _norm(gradients)
        if pairs:
            moved, before = _norm([p.detach() - old for p, old in pairs]), _norm([old for _, old in pairs])
            if before > 0:
                facts["update_ratio"] = moved / before
        return facts

    def _add(self, row: dict[str, dict[str, float]]) -> None:
        for name, largest in self._activations.items():
            row.setdefault(name, {})["activation"] = float(largest)
        self.steps.append(self._step())
        self._rows.append(row)
        self._said.append(self._terms_now())
        self._activations, self._before = {}, {}

    def _terms_now(self) -> dict[str, float]:
        """Return the values that the script's names for loss terms stand for now, in its frames and dictionaries."""
        found: dict[str, float] = {}
        for space in explain.live_namespaces(self.plan.target.frame):
            dictionaries = [value for value in space.values() if isinstance(value, dict) and len(value) <= 64]
            for names in (space, *dictionaries):
                for name in self.terms:
                    value = names.get(name)
                    if name not in found and isinstance(value, torch.Tensor) and value.numel() == 1:
                        found[name] = float(unwrapped(value).detach())
        return found

    def look_back(self, terms_at_failure: dict[str, float]) -> LookBack:
        """Return what was measured; `terms_at_failure` are the terms as the traced replay gave them."""
        names = [name for name in self.layers if any(name in row for row in self._rows)]
        norms = [{n: facts.get("grad_norm", 0.0) for n, facts in row.items()} for row in self._rows]
        names = most_telling(names, norms)
        steps = tuple(self.steps)
        said = [dict(row) for row in self._said]
        if said and steps[-1] >= self.plan.pending.step:
            said[-1] = terms_at_failure

        def table(fact: str) -> tuple[tuple[float | None, ...], ...]:
            rows = tuple(tuple(row.get(name, {}).get(fact) for row in self._rows) for name in names)
            return rows if any(value is not None for row in rows for value in row) else ()

        terms = {name: tuple(row.get(name) for row in said) for name in self.terms}
        return LookBack(
            steps, tuple(names), table("grad_norm"), table("update_ratio"), table("activation"),
            {name: values for name, values in terms.items() if sum(v is not None for v in values) > 1},
        )  # fmt: skip


def _norm(tensors: list[Any]) -> float:
    return math.sqrt(sum(float(tensor.detach().double().norm()) ** 2 for tensor in tensors))
