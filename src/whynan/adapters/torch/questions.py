"""What a watch asks a device that works ahead of the host, in place of reading it; what it looks at between steps."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from whynan.adapters.torch.elements import TensorGroup, dense, first_nonfinite, kind_in, kind_of, smallest
from whynan.adapters.torch.late import Late
from whynan.adapters.torch.sites import Event, Moment
from whynan.adapters.torch.snapshot import KnownState
from whynan.adapters.torch.trail import BY_HAND, Trail
from whynan.watching import RunHistory


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
        """Wait for every answer."""
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
