"""Losses for Keras 3 whose value and gradient are finite for all finite arguments.

The formulas are those of `whynan.formulas`, the names those of `whynan.torch.losses`. The class dimension is the last
one, as elsewhere in Keras; `as_keras` puts the arguments in its order.
Each gives 0 with a live gradient graph for an empty or wholly ignored target.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from whynan.formulas.backend import bind_all
from whynan.keras.backend import XP
from whynan.numpy import losses as parts

if TYPE_CHECKING:
    from whynan.numpy.losses import *  # noqa: F403

__all__ = [*parts.__all__, "as_keras"]

globals().update(bind_all(XP, parts, names={"axis": "dim"}, dim=-1))


def as_keras(loss: Callable[..., Any], **options: Any) -> Callable[[Any, Any], Any]:
    """Return a loss in the order in which Keras calls it, (y_true, y_pred), for `model.compile(loss=...)`.

        model.compile(loss=as_keras(cross_entropy, label_smoothing=0.1))

    Args:
        loss: a loss of this module that takes a prediction and a target.
        options: further arguments of the loss.
    """

    def in_order(y_true: Any, y_pred: Any) -> Any:
        return loss(y_pred, y_true, **options)

    in_order.__name__ = loss.__name__
    return in_order
