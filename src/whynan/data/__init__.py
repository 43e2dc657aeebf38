"""What would break a loss, found in the data set before training: `whynan data PATH` and `whynan.data.check(...)`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whynan.data.result import Result as Result
    from whynan.data.result import check as check

__all__ = ["Result", "check"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # NumPy and the readers are an extra: `import whynan.data` alone must not need them.
    from whynan.data import result

    return getattr(result, name)
