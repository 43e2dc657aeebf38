"""box-duplicate: the same box twice in one image."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from whynan.data.annotations import Annotations
from whynan.data.catalogue import Check
from whynan.data.finding import Finding
from whynan.data.options import Options


class BoxDuplicate(Check):
    """The object counts twice in the loss, and matching by rank (Hungarian, SimOTA) sees two equal costs."""

    slug = "box-duplicate"
    title = "same box and class twice in one image"
    severity = "warning"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations, options: Options) -> Iterator[Finding]:
        rows = np.flatnonzero(thing.has_box & np.isfinite(thing.raw).all(axis=1))
        if len(rows) < 2:
            return
        raw, file = thing.raw[rows], thing.file[rows]
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
