"""Words for what is wrong with a box: the same before training, in a file, and during it, in a batch."""

from collections.abc import Sequence

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def box_flaw(box: Sequence[float], is_corners: bool) -> str | None:
    """Return what a box lacks: "no width (x1=x2=412)"; None where it has a positive size.

    `is_corners`: (x1, y1, x2, y2), else the last two numbers are width and height.
    """
    lacks = []
    for k, side in ((0, "width"), (1, "height")):
        size = box[k + 2] - box[k] if is_corners else box[k + 2]
        if size > 0:
            continue
        axis = "xy"[k]
        if is_corners:
            numbers = f"{axis}1={axis}2={box[k]:g}" if size == 0 else f"{axis}1={box[k]:g}, {axis}2={box[k + 2]:g}"
        else:
            numbers = f"{side[0]}={size:g}"
        lacks.append(f"{'no' if size == 0 else 'a negative'} {side} ({numbers})")
    return " and ".join(lacks) or None


def ordinal(index: int) -> str:
    """Return the place of a 0-based index in words: third for 2, in digits beyond the tenth."""
    return _ORDINALS[index] if index < len(_ORDINALS) else f"{index + 1}th"
