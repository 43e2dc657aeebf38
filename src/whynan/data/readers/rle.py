"""Run-length encoded masks as COCO writes them: runs of 0 and 1 by turns, column after column."""

from typing import Any

import numpy as np


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
