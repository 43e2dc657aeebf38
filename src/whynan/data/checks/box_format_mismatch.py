from whynan.data.finding import Check, Found
from whynan.data.units import Overview

ODD = 0.2
"""Share of boxes that must make no sense as the format says ..."""
OTHER = 0.98
"""... and share of boxes that must make sense as the other convention says."""


class BoxFormatMismatch(Check):
    """Width and height taken for a corner, or a corner for width and height: boxes reach outside of the image or have a
    negative size, and log, IoU and the clipping behind them are not finite."""

    title = "boxes written in another convention"
    severity = "error"
    cause = "degenerate-box"
    subject = "set"

    def find(self, thing: Overview) -> Found:
        for part in thing.parts:
            if part.n_boxes < 3 or part.n_odd_boxes < ODD * part.n_boxes:
                continue
            for way, n in sorted(part.n_other_boxes.items(), key=lambda pair: -pair[1])[:1]:
                if n >= OTHER * part.n_boxes:
                    message = (
                        f"{part.n_odd_boxes} of {part.n_boxes} boxes stand out of their image or have a negative size, "
                        f"and {n} of them make sense when they are read as {way}"
                    )
                    yield self.finding(part.file, way, message)
