"""What a watch asks a device that works ahead of the host, in place of reading it."""

import math
from collections.abc import Callable
from typing import Any

import torch

from whynan.adapters.torch.late import Late
from whynan.adapters.torch.sites import Event, Moment


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


def largest(tensors: list[Any]) -> Any:
    """Return the largest magnitude in each of some tensors, NaN where one is; none of them may be empty."""
    return torch.stack(torch._foreach_norm(tensors, math.inf)).float()
