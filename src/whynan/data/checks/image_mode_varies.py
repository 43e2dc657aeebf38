from collections import Counter

from whynan.data.finding import Check, Found
from whynan.data.units import Overview

CHANNELS = {"1": 1, "L": 1, "P": 3, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3, "LAB": 3, "HSV": 3}
MOST = 20
"""Files that are named; more of them make it a set of two modes, and no slip."""


class ImageModeVaries(Check):
    """Tensors of 1, 3 and 4 channels do not go into one batch; a loader without convert("RGB") stops at the first odd
    one, or broadcasts it."""

    title = "image mode that differs from the others'"
    severity = "warning"
    cause = "loss-input-mismatch"
    subject = "set"

    def find(self, thing: Overview) -> Found:
        modes = Counter(row.mode for row in thing.images if row.mode)
        if len(modes) < 2:
            return
        usual = str(modes.most_common(1)[0][0])
        shares = ", ".join(f"{n} {mode}" for mode, n in modes.most_common())
        odd = [row for row in thing.images if row.mode and row.mode != usual]
        for row in odd[:MOST]:
            message = (
                f"mode {row.mode} ({channels(str(row.mode))}), while most are {usual} ({channels(usual)}): {shares}"
            )
            yield self.finding(row.file, row.mode, message, image=row.file)
        if len(odd) > MOST:
            yield self.finding(".", shares, f"{len(odd)} images are not {usual}: {shares}")


def channels(mode: str) -> str:
    n = CHANNELS.get(mode, 1)
    return f"{n} channel{'' if n == 1 else 's'}"
