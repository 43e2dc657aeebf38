"""For those who edit their Keras code: a callback that watches `fit`."""

from whynan.keras.callbacks import Watch as Watch

__all__ = ["Watch"]
