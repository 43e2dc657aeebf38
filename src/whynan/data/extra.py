"""Libraries that come with an extra: imported when they are needed, and missed with the line that installs them."""

import importlib
from typing import Any

from whynan.errors import WhynanError


class MissingExtraError(WhynanError):
    """A library that this kind of data needs is not installed."""

    slug = "missing-extra"


class DataError(WhynanError):
    """A data set cannot be looked at at all: not there, not readable, of no known format."""

    slug = "data-unreadable"


def need(module: str, extra: str, what: str) -> Any:
    """Return an imported module; without it raise MissingExtraError, which names the pip line."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtraError(
            f"{what} needs {module.partition('.')[0]}, which is not installed here: pip install 'whynan[{extra}]'"
        ) from error
