"""One change to the replayed step: what an attempt is entered with, and what it does around the optimizer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Scope = Literal["step", "window", "start"]
"""step: the failing step alone; window: from a snapshot before the growth on; start: from the first step on."""


@dataclass
class Change:
    """A remedy as it is tried: `mode` is entered for the attempt, `names` are bound and `drawn` is drawn otherwise."""

    slug: str
    words: str
    mode: Any = None
    names: dict[str, Any] = field(default_factory=dict)
    drawn: list[Any] | None = None
    scope: Scope = "step"
    patch: str | None = None
    n_applied: Callable[[], int] | None = None

    def count(self) -> int | None:
        """Return how often the change took hold, where it counts that."""
        if self.n_applied is not None:
            return self.n_applied()
        counted = getattr(self.mode, "n_applied", None)
        return None if counted is None else int(counted)


@dataclass
class Around:
    """A mode that works around optimizer steps (or, with updates by hand, behind backward passes)."""

    watch: Any
    before: Callable[[Any, int], None]
    after: Callable[[Any, int], None] = lambda optimizer, step: None
    on_start: Callable[[], None] = lambda: None
    on_gradients: Callable[[int], None] | None = None
    on_returned: Callable[[Any], Any] | None = None
    """What becomes of the gradients that `torch.autograd.grad` returns."""
    n_applied: int = 0
    parts: set[str] = field(default_factory=set)
    """What of whynan's own parts was used."""

    def __enter__(self) -> None:
        self.on_start()
        self.n_applied = 0
        self.watch.around_step = self

    def __exit__(self, *exception: object) -> None:
        self.watch.around_step = None

    def enter_step(self, optimizer: Any) -> None:
        self.before(optimizer, self.n_applied)

    def leave_step(self, optimizer: Any) -> None:
        self.after(optimizer, self.n_applied)
        self.n_applied += 1
