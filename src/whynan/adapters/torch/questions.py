"""What a watch asks a device that works ahead of the host, in place of reading it; what it looks at between steps."""

import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch.elements import TensorGroup, dense, first_nonfinite, kind_in, kind_of, smallest
from whynan.adapters.torch.frames import live_user_frame
from whynan.adapters.torch.late import Late
from whynan.adapters.torch.sites import Event, Leaving, Moment, Pass
from whynan.adapters.torch.snapshot import KnownState
from whynan.adapters.torch.trail import BY_HAND, Trail
from whynan.watching import RunHistory

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


class Asking:
    """The questions of a watch that have no answer yet, and the events that answers have made."""

    def __init__(self) -> None:
        self.late = Late()
        self.thorough = False
        """Read every gradient and parameter at every check, at once and whatever that costs."""
        self.found: list[Event] = []
        """Events of answers that nobody has heard of yet."""
        self.notify: Callable[[Event], None] = lambda event: None
        self.now: Callable[[], Moment | None] = lambda: None
        """Returns where the program is; None where no iteration is under way to come back to."""
        self.n_before_gradients = 0
        """How much had been asked for when the latest gradients were: the backward pass lies between."""

    def may_ask(self, tensors: list[Any]) -> bool:
        """Whether these tensors are asked about, not read."""
        return bool(tensors) and not self.thorough and self.late.takes(tensors[0]) and self.now() is not None

    def ask(self, numbers: Callable[[], Any], then: Callable[[list[float]], None]) -> None:
        """Ask for numbers; a device that can't do this is waited for from then on."""
        try:
            self.late.ask(numbers(), then)
        except RuntimeError as error:
            self.late.give_up(error)

    def ask_whether_bad(self, tensors: list[Any], event_of: Callable[[list[int], str], Event]) -> None:
        """Ask for each tensor's largest magnitude; `event_of` makes the event of those without one, by their places."""
        full = [(place, tensor) for place, tensor in enumerate(tensors) if tensor.numel()]
        tell = self.teller(event_of)
        if full:
            self.ask(
                lambda: largest([tensor for _, tensor in full]),
                lambda values: tell({place: value for (place, _), value in zip(full, values)}),
            )

    def teller(self, event_of: Callable[[list[int], str], Event]) -> Callable[[dict[int, float]], None]:
        """Return what takes magnitudes by the places of their tensors, as of the moment now."""
        moment = self.now()

        def tell(values: dict[int, float]) -> None:
            bad = [place for place, value in values.items() if not math.isfinite(value)]
            if bad:
                event = event_of(bad, "nan" if any(math.isnan(values[place]) for place in bad) else "inf")
                event.moment = moment
                event.line = event.line or (moment.line if moment is not None else None)
                self.found.append(event)

        return tell

    def hear(self, first: int = 0) -> None:
        """Take the answers that have come, and wait for the `first` of all that was ever asked; tell of an event."""
        self.late.settle(first)
        if self.found:
            event, *_ = self.found
            self.found.clear()
            self.notify(event)

    def hear_all(self) -> None:
        self.hear(self.late.n_asked)


class Poisoned(Asking):
    """What no backward pass and no optimizer step tells of, looked at when an iteration ends."""

    def __init__(self, known: KnownState) -> None:
        super().__init__()
        self.known = known
        self._parameters = TensorGroup(share=0.003, free_s=5e-5)
        self._buffers = TensorGroup(share=0.001, free_s=1e-4)
        self._statistics: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self._innocent_buffers: set[int] = set()
        self._seen_buffers: set[int] = set()

    def poisoned_buffer(self, before: Sequence[tuple[Any, Any]] = ()) -> Event | None:
        """Return an event where a running statistic has become non-finite.

        `before` are buffers and their copies from the beginning of the iteration.
        """
        known = self.known.buffers()
        if self._statistics[0] is not known:
            self._statistics = (known, *self._changing([b for b in known if b.is_floating_point()], before))
        _, changing, small = self._statistics
        if self.may_ask(changing):
            names = self.known.parameter_names
            self.ask_whether_bad(
                small,
                lambda bad, kind: Event("buffer", "forward", [], _name_of(small[bad[0]], names()), kind, len(bad)),
            )
            return None
        bad, _ = self._buffers.check(changing, small)
        if bad:
            broken = first_nonfinite(changing)
            name = _name_of(broken[0], self.known.parameter_names())
            return Event("buffer", "forward", broken, name, kind_in(broken[0]), len(broken))
        return None

    def _changing(self, buffers: list[Any], before: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
        new = [b for b in buffers if id(b) not in self._seen_buffers]
        if new:
            # A mask of -inf may be a buffer: only those that turn non-finite count. Modules may be met later, too.
            is_first = not self._seen_buffers
            clean = {id(b) for b, copy in before if not first_nonfinite([copy])}
            self._innocent_buffers |= {
                id(b) for b in first_nonfinite(new) if id(b) not in clean and (is_first or kind_in(b) == "-inf")
            }
            self._seen_buffers |= {id(b) for b in new}
        changing = dense(b for b in buffers if id(b) not in self._innocent_buffers)
        return changing, smallest(changing)

    def poisoned_parameter(self) -> Event | None:
        parameters = dense(p for p in self.known.parameters() if p.grad is not None)
        bad, _ = self._parameters.check(parameters, thorough=self.thorough)
        if not bad:
            return None
        broken = first_nonfinite(parameters)
        names = self.known.parameter_names()
        name = next((names[id(p)] for p in broken if id(p) in names), "parameter")
        return Event("parameter", BY_HAND, broken, name, kind_in(broken[0]), len(broken))


class Questions(Poisoned):
    """Asks where `Watch` would read."""

    def __init__(self, known: KnownState) -> None:
        super().__init__(known)
        self.history = RunHistory()
        self.trail = Trail(known)
        self.n_steps = 0
        self.last_loss: float | None = None
        self.grad_norm: float | None = None
        self.last_clean_step: int | None = None
        self._gradients = TensorGroup(share=0.005, free_s=1e-4)

    @abstractmethod
    def name_of(self, tensor: Any) -> str:
        """Return what the script calls a loss."""

    def ask_loss(self, root: Any, is_backward: bool = True) -> None:
        """Ask for a loss before its backward pass; its update waits for the answer."""
        moment = self.now()

        def tell(values: list[float]) -> None:
            if is_backward and root.numel() == 1:
                self.last_loss = values[0]
            if not math.isfinite(values[0]) and first_nonfinite([root]):
                kind = kind_of(values[0]) or "nan"
                event = Event("loss", "backward", [root], self.name_of(root), kind, moment=moment)
                event.line = moment.line if moment is not None else None
                self.found.append(event)

        self.ask(lambda: root.detach().sum().reshape(1), tell)

    def ask_gradients(self, parameters: list[Any], gradients: list[Any], whole: bool, when: str) -> None:
        """Ask for the norms of all gradients, or whether the small ones are finite."""
        step, n = self.n_steps, len(gradients)

        owners = parameters if len(parameters) == n else [p for p in parameters for _ in dense([p.grad])]

        def event_of(bad: list[int], kind: str) -> Event:
            name = self.known.parameter_names().get(id(owners[bad[0]]), "parameter")
            return Event("gradient", when, [], name, kind, len(bad))

        if not whole:
            self.ask_whether_bad(gradients, event_of)
            return
        tell = self.teller(event_of)

        def told(values: list[float]) -> None:
            norms = values[n:]
            self.trail.note_gradients(step, parameters, norms)
            self.grad_norm = math.sqrt(math.fsum(min(v**2, 1e300) if math.isfinite(v) else v for v in norms))
            self.history.grad_norm.amend(self.n_steps - step, self.grad_norm)
            tell(dict(enumerate(values[:n])))

        with self.late.charged(self._gradients.budget, gradients[0]):
            self.ask(lambda: torch.cat([largest(gradients), torch.stack(torch._foreach_norm(gradients)).float()]), told)

    def ask_parameters(self, parameters: list[Any], in_turn: list[Any]) -> None:
        """Ask whether an update has left numbers in all parameters, where it is time to, or in some."""
        step = self.n_steps
        whole = self._parameters.wants_all()
        asked = [p for p in (parameters if whole else in_turn) if p.numel()]

        def event_of(bad: list[int], kind: str) -> Event:
            name = self.known.parameter_names().get(id(asked[bad[0]]), "parameter")
            return Event("parameter", "after optimizer.step()", [], name, kind, len(bad))

        if not whole:
            self.ask_whether_bad(asked, event_of)
            return
        tell = self.teller(event_of)

        def told(values: list[float]) -> None:
            if all(map(math.isfinite, values)):
                self.last_clean_step = step
            tell(dict(enumerate(values)))

        with self.late.charged(self._parameters.budget, asked[0]):
            self.ask(lambda: largest(asked), told)


def largest(tensors: list[Any]) -> Any:
    """Return the largest magnitude in each of some tensors, NaN where one is; none of them may be empty."""
    return torch.stack(torch._foreach_norm(tensors, math.inf)).float()


def _name_of(buffer: Any, names: dict[int, str]) -> str:
    return names.get(id(buffer), "buffer")


class Belated:
    """The host's part in what a device is asked and answers later (late.py): where it happened, how it is run again.

    Its iteration may be over by then. The one after it stands for it: what that one ran on is put aside, and taken up
    again when the step is undone.
    """

    def __init__(self, host: "TorchHost") -> None:
        self.host = host
        self.late = host.loops.late = host.watch.late
        host.watch.now = self.moment

    def moment(self) -> Moment | None:
        """Return where the program is, in an iteration that could be run again after its end; None elsewhere."""
        host = self.host
        if host.is_over or host.plan is not None or host.ranks.is_joint or not host.known.optimizers:
            return None
        alive = host.loops.alive()
        if all(current.snapshot is None for current in alive):
            return None
        for current in alive:
            if current.counts is None:
                current.counts = host.watch.bookkeeping() | {"n_events": current.n_events}
        frame = live_user_frame(sys._getframe(1))
        line = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else None
        return Moment(tuple(current.serial for current in alive), host.watch.n_steps, host.watch.n_events, line)

    def target_of(self, event: Event, targets: list[Pass]) -> Pass | None:
        """Return the innermost of some iterations that an event can be explained in."""
        moment = event.moment
        if moment is None:
            return next((t for t in targets if t.snapshot is not None), None)
        fitting = (t for t in targets if (t.snapshot is not None and t.is_at(moment)) or t.is_after(moment))
        return next(fitting, None)

    def earlier(self, event: Event, target: Pass | None) -> Event:
        """Return what an event comes from, where an answer that is still to come tells of it; else the event itself."""
        if event.moment is None and target is not None and self.late.n_waiting:
            self.late.settle(self.late.n_asked)
            known = [e for e in self.host.watch.found if self.target_of(e, [target]) is target]
            event = known[0] if known else event
        self.host.watch.found.clear()
        self.late.forget()
        return event

    def before_update(self, optimizer: Any, alive: list[Pass]) -> None:
        """Wait for what is still to come where what this update does could not be undone."""
        if not self.late.n_waiting:
            return
        current = alive[0] if alive else None
        snapshot = current.snapshot if current is not None and current.can_go_back() else None
        if snapshot is None or id(optimizer) not in snapshot.optimizers:
            self.host.watch.hear_all()

    def forget_past(self) -> None:
        """Let go of iterations that are over where all is known of them and none is to be run again."""
        if self.late.n_asked and self.host.pending is None:
            self.host.loops.forget_past()

    def at_end(self, current: Pass) -> None:
        if not self.late.n_asked:
            return
        # A trainer that makes its update elsewhere: nothing of it could be undone from there.
        is_whole = self.host.watch.n_steps > current.n_steps or not current.owner.is_step
        try:
            self.host.watch.hear(0 if is_whole else self.late.n_asked)
        except Leaving as leaving:
            if leaving.target is not current:
                raise
        if not self.late.n_waiting:
            self.forget_past()

    def go_back(self, current: Pass) -> None:
        """Let an iteration stand for the one that the symptom which waits for its end happened in."""
        moment = self.host.pending.moment if self.host.pending is not None else None
        if moment is not None and not current.is_at(moment):
            self.host.watch.put_back(current.go_back())

    def goes_on(self, current: Pass, is_undone: bool) -> bool:
        """Let it stand for itself again; return whether its body is to run once more, since its step was undone too."""
        if current.own is None:
            return False
        again = is_undone and not current.owner.is_step  # a trainer counts its step as undone, too
        current.come_back(again)
        return again

    def hear_the_rest(self) -> None:
        """The program has ended: wait for whatever has been asked for and not come."""
        try:
            self.host.watch.hear_all()
        except Leaving:
            pass  # there is nothing left to leave
