"""How the host leaves the user's code."""

from whynan.adapters.torch.sites import Pass
from whynan.launch.host import Unwind


class Leaving(Unwind):
    """Leaves the user's code up to one iteration, or (`target` None) for good."""

    def __init__(self, target: Pass | None) -> None:
        super().__init__()
        self.target = target
