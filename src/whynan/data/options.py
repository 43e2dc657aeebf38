"""What a user may set about a look at a data set, and what must be installed for it."""

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from whynan.errors import WhynanError

Format = Literal["auto", "coco", "voc", "yolo", "masks", "folder", "npz", "csv", "parquet", "webdataset"]
EngineName = Literal["local", "ray"]

TRAIN_SIZE = 640
"""Longest side, in pixels, that images are scaled to for training where the user says nothing else."""
TOLERANCE = 0.25
"""Pixels that a box may stand out of its image: rounding in exports. Half a pixel and more is reported."""


@dataclass(frozen=True, slots=True)
class Options:
    """Settings that checks and readers see; plain data, sent to worker processes as it is."""

    format: Format = "auto"
    classes: int | None = None
    names: tuple[str, ...] = ()
    ignore_index: int | None = None
    train_size: int = TRAIN_SIZE
    tolerance: float = TOLERANCE
    pixels: bool = True
    """Whether image files are read at all; False looks at annotations alone."""
    exact: bool = False
    """Whether mean and standard deviation use each pixel of each image, where a grid of 64 x 64 is the default."""


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
