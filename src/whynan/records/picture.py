"""A picture beside the report: a file with the image; the boxes that belong on it stand in the report."""

from dataclasses import dataclass
from typing import Any, Literal

from whynan.records.numbers import to_jsonable

BoxKind = Literal["target", "proposal", "anomaly"]


@dataclass(frozen=True)
class Box:
    """A box as x1, y1, x2, y2 in pixels of its picture; `note` says what is wrong with an anomalous one."""

    corners: tuple[float, float, float, float]
    kind: BoxKind
    label: str | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "box": [to_jsonable(value) for value in self.corners],
            "kind": self.kind,
            "label": self.label,
            "note": self.note,
        }


@dataclass(frozen=True)
class Picture:
    """An image that the network saw. `png` is the file's content; without one the boxes are drawn on an empty ground.

    `what` is "sample" or "proposals", `moment` says when ("failing step", "step 0"), `facts` what was measured on it.
    """

    what: Literal["sample", "proposals"]
    title: str
    width: int
    height: int
    png: bytes | None = None
    overlay: bytes | None = None
    """A second image of the same size, transparent where it has nothing to say: a mask."""
    boxes: tuple[Box, ...] = ()
    facts: tuple[str, ...] = ()
    step: int | None = None

    def to_json(self, stem: str) -> dict[str, Any]:
        """Return what report.json holds; the files are `stem`.png and `stem`-mask.png."""
        return {
            "what": self.what,
            "title": self.title,
            "step": self.step,
            "width": self.width,
            "height": self.height,
            "file": f"{stem}.png" if self.png is not None else None,
            "overlay": f"{stem}-mask.png" if self.overlay is not None else None,
            "boxes": [box.to_json() for box in self.boxes],
            "facts": list(self.facts),
        }

    def files(self, stem: str) -> dict[str, bytes]:
        """Return the files by name."""
        found = {f"{stem}.png": self.png, f"{stem}-mask.png": self.overlay}
        return {name: content for name, content in found.items() if content is not None}
