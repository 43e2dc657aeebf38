"""What the watch of a step asks a device that works ahead: its loss, its gradients, its parameters."""

import math
from abc import abstractmethod
from typing import Any

import torch

from whynan.adapters.torch.asking import largest
from whynan.adapters.torch.elements import TensorGroup, dense, first_nonfinite, kind_of
from whynan.adapters.torch.sites import Event
from whynan.adapters.torch.snapshot import KnownState
from whynan.adapters.torch.trail import Poisoned, Trail
from whynan.watching import RunHistory


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
