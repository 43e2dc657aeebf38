"""Boxes without width or height, by the convention that the other boxes of the batch follow."""

from typing import Any

import torch

from whynan.data.wording import box_flaw, ordinal

_MAJORITY = 0.6


def degenerate_boxes(samples: list[tuple[int, Any, str | None]]) -> list[tuple[int, tuple[float, ...]]]:
    """Return (position, box) for each degenerate box among (position, float tensor [n, 4], format or None).

    Corners (x1, y1, x2, y2) and sizes (x, y, w, h or centre first) look alike in one box. Where no format is given,
    the batch decides: ordered corners in most boxes mean corners. Where neither reading fits most boxes, nothing is
    claimed.
    """
    return [(position, box) for position, _, box, _ in _degenerate(samples)]


def box_words(samples: list[tuple[int, Any, str | None]]) -> list[tuple[int, str]]:
    """Return (position, "its third box has no width (x1=x2=412)") for the same boxes, in the words of `whynan data`."""
    found = []
    for position, row, box, as_corners in _degenerate(samples):
        flaw = box_flaw(box, as_corners)
        if flaw is not None:
            found.append((position, f"its {ordinal(row)} box has {flaw}"))
    return found


def _degenerate(samples: list[tuple[int, Any, str | None]]) -> list[tuple[int, int, tuple[float, ...], bool]]:
    """Return (position, row of the sample's boxes, box, whether boxes are corners)."""
    known = next((format_ for _, _, format_ in samples if format_), None)
    boxes = torch.cat([rows for _, rows, _ in samples]) if samples else torch.zeros(0, 4)
    as_corners = known == "xyxy" if known else are_corners(boxes)
    if as_corners is None:
        return []
    found = []
    for position, rows, _ in samples:
        sizes = rows[:, 2:] - rows[:, :2] if as_corners else rows[:, 2:]
        bad = (sizes <= 0).any(1) & torch.isfinite(rows).all(1) & ~_is_padding(rows)
        places = bad.nonzero().reshape(-1).tolist()
        found += [(position, row, tuple(box), as_corners) for row, box in zip(places, rows[bad].tolist())]
    return found


def mended(boxes: Any, as_corners: bool | None) -> Any:
    """Return boxes [n, 4] with swapped corners put in order and sides without length made one pixel long."""
    least = 1.0 if float(boxes.abs().max()) > 2 else 0.01
    first, last = boxes[:, :2], boxes[:, 2:]
    if as_corners:
        first, last = torch.minimum(first, last), torch.maximum(first, last)
        last = torch.where(last > first, last, first + least)
    elif as_corners is False:
        last = torch.where(last == 0, least, last.abs())
    return torch.where(_is_padding(boxes)[:, None], boxes, torch.cat([first, last], 1))


def are_corners(boxes: Any) -> bool | None:
    """Return whether most boxes [n, 4] are ordered corners, None where they are no sizes either."""
    boxes = boxes[torch.isfinite(boxes).all(1) & ~_is_padding(boxes)]
    if len(boxes) and _share(_ordered(boxes)) >= _MAJORITY:
        return True
    return False if len(boxes) and _share((boxes[:, 2:] > 0).all(1)) >= _MAJORITY else None


def _ordered(boxes: Any) -> Any:
    """Corners in order, equal ones included: the box in question may be the only one."""
    return (boxes[:, 2:] >= boxes[:, :2]).all(1)


def _is_padding(boxes: Any) -> Any:
    """Rows of 0 or -1 fill a batch up to the image with the most boxes."""
    return (boxes == 0).all(1) | (boxes == -1).all(1)


def _share(truths: Any) -> float:
    return float(truths.double().mean())
