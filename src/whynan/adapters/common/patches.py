"""Replaced attributes of a library, put back at the end."""

from collections.abc import Callable
from typing import Any


class Patches:
    """Replaces attributes and remembers what they were."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, bool]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Set `owner.name` to what `make` makes of its present value."""
        is_own = name in vars(owner)
        original = vars(owner)[name] if is_own else getattr(owner, name)
        setattr(owner, name, make(original))
        self._replaced.append((owner, name, original, is_own))

    def undo(self) -> None:
        while self._replaced:
            owner, name, original, is_own = self._replaced.pop()
            if is_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)
