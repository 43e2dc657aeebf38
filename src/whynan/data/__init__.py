"""What would break a loss, found in the data set before training: `whynan data PATH` and `whynan.data.check(...)`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whynan.data.api import check as check
    from whynan.data.result import Result as Result

__all__ = ["Result", "check"]


def __getattr__(name: str) -> Any:
    # NumPy and the readers are an extra: `import whynan.data` alone must not need them.
    if name == "check":
        from whynan.data.api import check

        return check
    if name == "Result":
        from whynan.data.result import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
