"""Parts for MindSpore that stay finite: `losses`, `ops`, `layers`, `init`, `clip`, `schedules`. And for those who edit
their code `Watch`, a callback that watches `Model.train`.

For every finite input value and gradient of a part are finite, in float64, float32, bfloat16 and float16, at every size
that MindSpore has kernels for. MindSpore is imported when something is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whynan.mindspore.callbacks import Watch

__all__ = ["Watch"]


def __getattr__(name: str) -> Any:
    if name != "Watch":
        raise AttributeError(f"module 'whynan.mindspore' has no attribute {name!r}")
    from whynan.mindspore.callbacks import Watch

    return Watch
