"""Why did my loss become NaN? `whynan run train.py` answers with the operation, the line, the sample and the cause.

For those who edit their code: `whynan.watch`. Nothing of a framework is imported before the program has imported it.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from whynan.api import Report
    from whynan.api.watch import NonFiniteError, Watched, watch
    from whynan.recovery import Limits

_PLACES = {
    "watch": "whynan.api.watch",
    "Watched": "whynan.api.watch",
    "NonFiniteError": "whynan.api.watch",
    "Report": "whynan.api",
    "Limits": "whynan.recovery",
    "load_ipython_extension": "whynan.api.trainers",
}
__all__ = ["Limits", "NonFiniteError", "Report", "Watched", "__version__", "watch"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'whynan' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
