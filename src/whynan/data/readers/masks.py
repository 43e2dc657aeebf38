"""Masks of semantic segmentation: an image or array whose values are class indices."""

import io
from typing import Any

import numpy as np

from whynan.data.readers import images
from whynan.data.readers.arrays import open_npy

_INDEXED = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
MOST_VALUES = 4096
"""Different values of a mask that are kept; class indices are far fewer."""

Facts = dict[str, Any]


def read(data: bytes, is_array: bool) -> Facts:
    """Return "size", "mode" and how often each value comes ("values"), or "error". NaN and infinities are counted
    apart."""
    if not data:
        return {"error": "the file is empty"}
    try:
        return _count(_array(data)) if is_array else _read_image(data)
    except MemoryError:
        return {"error": "there is not enough memory to read it"}
    except Exception as error:  # a broken file makes a decoder raise nearly anything
        return {"error": images.explain(error)}


def _array(data: bytes) -> Any:
    return open_npy(io.BytesIO(data)).read_all()


def _read_image(data: bytes) -> Facts:
    with images.open_image(io.BytesIO(data)) as image:
        facts: Facts = {"size": image.size, "mode": image.mode, "format": image.format}
        if image.width * image.height > images.MOST_PIXELS:
            return facts | {"error": f"it claims {image.width} x {image.height} pixels (a decompression bomb?)"}
        image.load()
        if image.mode in ("L", "P"):
            counts = image.histogram()
            return facts | {"values": {value: n for value, n in enumerate(counts) if n}}
        if image.mode in _INDEXED:
            return facts | _count(np.asarray(image))
        bands = [np.asarray(band) for band in image.getbands() and image.split()]
        if len(bands) >= 3 and (bands[0] == bands[1]).all() and (bands[1] == bands[2]).all():
            return facts | _count(bands[0])  # grey, saved with three channels
        return facts | {"colours": True}


def _count(array: Any) -> Facts:
    array = np.squeeze(array)
    if array.ndim != 2:
        return {"error": f"it has shape {list(array.shape)}, and a mask has two dimensions"}
    facts: Facts = {"size": (int(array.shape[1]), int(array.shape[0]))}
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind == "f":
        facts |= {"nan": int(np.isnan(array).sum()), "inf": int(np.isinf(array).sum())}
        array = array[np.isfinite(array)]
        whole = array == np.floor(array)
        facts["fractions"] = int((~whole).sum())
        array = array[whole].astype(np.int64)
    elif array.dtype.kind not in "iu":
        return facts | {"error": f"its dtype is {array.dtype}, no number"}
    values, counts = np.unique(array, return_counts=True)
    facts["values"] = dict(zip(values[:MOST_VALUES].tolist(), counts[:MOST_VALUES].tolist()))
    return facts
