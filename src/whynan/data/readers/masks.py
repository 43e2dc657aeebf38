"""Masks of semantic segmentation: images or arrays of class indices, and the run-length encoding of COCO."""

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


def area(rle: dict[str, Any]) -> tuple[int, int]:
    """Return (pixels of the mask, pixels of the image that the runs add up to). Raises ValueError where it is no
    RLE."""
    counts = rle.get("counts")
    if isinstance(counts, str):
        runs = decompress(counts)
    elif isinstance(counts, list):
        try:
            runs = np.array(counts, dtype=np.int64)
        except (ValueError, TypeError, OverflowError):
            raise ValueError("counts are no integers") from None
    else:
        raise ValueError("it has no counts")
    if runs.ndim != 1 or (len(runs) and int(runs.min()) < 0):
        raise ValueError("a run is negative")
    return int(runs[1::2].sum()), int(runs.sum())


def decompress(counts: str) -> Any:
    """Return the runs i64[n] of a compressed RLE: 5 bits a character, bit 6 says that more follow; from the third run
    on each number is the difference to the run before the last (maskApi.c of the COCO API)."""
    codes = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if len(codes) and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 32):
        raise ValueError("counts are not in COCO's encoding")
    if not len(codes):
        return codes
    last = (codes & 32) == 0
    starts = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    ends = np.flatnonzero(last)
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    if shifts.max() > 55:
        raise ValueError("a run is too long")
    values = np.add.reduceat((codes & 31) << shifts, starts)
    negative = (codes[ends] & 16) != 0  # the sign is extended from the last character
    values = np.where(negative, values - (np.int64(1) << (shifts[ends] + 5)), values)
    # x[k] += x[k - 2] for k > 2: cumulated over the odd places, and over the even ones from the third on.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def pixels(rle: dict[str, Any]) -> Any:
    """Return the mask, bool[h, w]. Raises ValueError where it is no RLE."""
    height, width = (int(side) for side in rle["size"])
    counts = rle["counts"]
    runs = decompress(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64)
    if int(runs.sum()) != height * width or (len(runs) and runs.min() < 0):
        raise ValueError("the runs do not add up to the image")
    flat: Any = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T
