"""Parts for Keras 3 that stay finite, on its TensorFlow, JAX and PyTorch backends: `losses`, `ops`, `layers`, `init`,
`clip`, `schedules`. And for those who edit their code `Watch`, a callback that watches `fit`.

For every finite input value and gradient of a part are finite, in float64, float32, bfloat16 and float16, at every
size. Keras is imported when something is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whynan.keras.callbacks import Watch

__all__ = ["Watch"]


def __getattr__(name: str) -> Any:
    if name != "Watch":
        raise AttributeError(f"module 'whynan.keras' has no attribute {name!r}")
    from whynan.keras.callbacks import Watch

    return Watch
