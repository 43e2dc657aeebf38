"""What is replaced for a while: attributes of a library, the streams that a replayed step would print to again."""

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what runs inside from the user's streams, and its warnings too."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    filters = warnings.filters
    warnings.filters = [("ignore", None, Warning, None, 0)]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
        warnings.filters = filters
