"""What the watch tells the host, something is non-finite, here, now; and how the host leaves the user's code."""

from dataclasses import dataclass, field
from typing import Any

from whynan.adapters.torch.sites import Pass
from whynan.launch.host import Unwind
from whynan.records.incident import Stage, What


@dataclass
class Event:
    """A non-finite value at a point where the program uses it. `tensors` are live; nobody keeps the event for long."""

    what: What
    when: str
    tensors: list[Any] = field(repr=False)
    name: str
    kind: str
    n_tensors: int = 1
    line: tuple[str, int | None] | None = None
    differentiable: bool = True
    error: BaseException | None = None
    stage: Stage = "train"
    was_skipped: bool = False
    is_loss: bool = False
    """Its name alone says that it is a loss."""


class Leaving(Unwind):
    """Leaves the user's code up to one iteration, or (`target` None) for good."""

    def __init__(self, target: Pass | None) -> None:
        super().__init__()
        self.target = target
