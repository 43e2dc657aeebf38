from typing import Any

import numpy as np

from whynan.data.annotations import Annotations
from whynan.data.finding import Check, Found


class DuplicateAnnotationId(Check):
    """A loader that looks annotations up by id (pycocotools) gives the last of them for both: an image gets the box of
    another one, often outside of its borders."""

    title = "annotation id used twice"
    severity = "error"
    cause = "degenerate-box"
    fixable = True
    subject = "annotations"

    def find(self, thing: Annotations) -> Found:
        if thing.ids is None:
            return
        order = np.lexsort((thing.ids, thing.file))
        ids, files = thing.ids[order], thing.file[order]
        again: Any = np.zeros(len(thing), bool)
        again[order[1:][(ids[1:] == ids[:-1]) & (files[1:] == files[:-1]) & (ids[1:] != -1)]] = True
        if not again.any():
            return
        first = {int(i): int(thing.number[row]) for row, i in reversed(list(enumerate(thing.ids.tolist())))}
        for row, file, index, look in thing.places(again):
            value = int(thing.ids[row])
            text = thing.id_text.get(value, str(value))
            message = f"annotation id {text} is that of annotation {first[value]} already"
            yield self.finding(file, text, message, index, **look)
