"""For those who edit their Keras code: `whynan.keras.Watch`, a callback that watches `fit`. Imports Keras when used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whynan.keras.callbacks import Watch

__all__ = ["Watch"]


def __getattr__(name: str) -> Any:
    if name != "Watch":
        raise AttributeError(f"module 'whynan.keras' has no attribute {name!r}")
    from whynan.keras.callbacks import Watch

    return Watch
