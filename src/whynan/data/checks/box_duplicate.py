from typing import Any

import numpy as np

from whynan.data.annotations import Annotations
from whynan.data.finding import Check, Found


class BoxDuplicate(Check):
    """The object counts twice in the loss, and matching by rank (Hungarian, SimOTA) sees two equal costs."""

    title = "same box and class twice in one image"
    severity = "warning"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        rows = np.flatnonzero(thing.has_box & thing.is_finite)
        if len(rows) < 2:
            return
        raw, file = thing.raw[rows], thing.file[rows]
        if not _may_repeat(raw, thing.label[rows], thing.image[rows], file):
            return
        keys = (raw[:, 3], raw[:, 2], raw[:, 1], raw[:, 0], thing.label[rows], thing.image[rows], file)
        order = np.lexsort(keys)
        same: Any = np.ones(len(order) - 1, bool)
        for key in keys:
            same &= key[order[1:]] == key[order[:-1]]
        # lexsort is stable: of equal rows the first in the file comes first, and the later ones are the duplicates.
        bad: Any = np.zeros(len(thing), bool)
        bad[rows[order[1:][same]]] = True
        for row, name, index, look in thing.places(bad):
            message = f"box ({thing.text(row)}) stands there a second time with the same class"
            yield self.finding(name, thing.text(row), message, index, **look)


def _may_repeat(raw: Any, label: Any, image: Any, file: Any) -> bool:
    """Tell quickly that no row comes twice: equal rows have equal hashes, and equal hashes are rare."""
    # -0.0 and 0.0 are equal and have different bits.
    bits = (raw + 0.0).view(np.uint64)
    factors = np.array(
        [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], dtype=np.uint64
    )
    hashes = bits[:, 0] * factors[0]
    for k in (1, 2, 3):
        hashes = (hashes ^ (hashes >> np.uint64(29))) + bits[:, k] * factors[k]
    places = (file * 1_000_003 + image) * 1_000_003 + label
    hashes = np.sort(hashes ^ (places.astype(np.uint64) * factors[2]))
    return bool((hashes[1:] == hashes[:-1]).any())
