"""The offending sample as a picture: its image, with the boxes or the mask of its target."""

import math
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch import png
from whynan.adapters.torch.data import structure
from whynan.adapters.torch.data.batch import keep_samples
from whynan.adapters.torch.samples import SampleSearch
from whynan.launch.host import tell
from whynan.records import Box, Picture

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan

_MOST_BOXES = 200
_MOST_PICTURES = 3
_TINY = 1e-6


def sample_pictures(plan: "Plan", search: SampleSearch) -> tuple[Picture, ...]:
    """Return a picture of each guilty sample that is an image; nothing where none is, or Pillow is not installed."""
    if not search.samples or search.size is None or not png.is_available():
        return ()
    found = []
    for sample in search.samples[:_MOST_PICTURES]:
        if sample.position is None:
            continue
        try:
            name = f"dataset index {sample.index}" if sample.index is not None else f"row {sample.position}"
            picture = _picture(search, sample.position, name, plan.pending.step)
        except Exception as error:
            tell("making a picture of the sample failed", error)
            continue
        if picture is not None:
            found.append(picture)
    return tuple(found)


def _picture(search: SampleSearch, position: int, name: str, step: int) -> Picture | None:
    parts = [*search.batch.names.items(), *((f"batch{k}", item) for k, item in enumerate(search.batch.drawn))]
    leaves: list[tuple[str, Any]] = []
    whole = dict(parts)
    size = search.batch.size or search.size
    kept = keep_samples(whole, [position], size)
    for text, leaf in structure.leaves(kept):
        tensor = leaf if isinstance(leaf, torch.Tensor) else torch.as_tensor(leaf)
        leaves.append((text, tensor.detach()))
    images = [(text, _one(tensor)) for text, tensor in leaves]
    found = next(((text, tensor) for text, tensor in images if png.is_image(tensor) and not _is_target(text)), None)
    if found is None:
        return None
    where, image = found
    content, scale, facts = png.image_png(image)
    height, width = (int(side) for side in image.shape[1:])
    others = [(text, tensor) for text, tensor in leaves if text != where]
    boxes, words = target_boxes(others, width, height)
    overlay, mask_words = _mask(others, height, width, scale)
    return Picture(
        "sample",
        f"{name}, as the model got it",
        width,
        height,
        content,
        overlay,
        boxes,
        (*facts, *words, *mask_words),
        step,
    )


def _one(tensor: Any) -> Any:
    """Return the sample itself of a batch of one."""
    return tensor[0] if tensor.dim() == 4 and tensor.shape[0] == 1 else tensor


def _is_target(text: str) -> bool:
    return any(word in text.lower() for word in ("target", "mask", "label", "box"))


def target_boxes(leaves: list[tuple[str, Any]], width: int, height: int) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Return the boxes among a target's tensors, x1, y1, x2, y2 in pixels, and what is wrong with them in words."""
    table = next((tensor for text, tensor in leaves if "box" in text.lower() and _is_table(tensor)), None)
    if table is None:
        return (), ()
    rows = table.reshape(-1, 4).to("cpu", torch.float64)
    finite = rows[torch.isfinite(rows)]
    if finite.numel() and float(finite.abs().max()) <= 1.0 and max(width, height) > 8:
        return (), ("boxes are given as shares of the image and are not drawn",)
    labels = next((tensor for text, tensor in leaves if "label" in text.lower() and tensor.dim() <= 2), None)
    numbers = labels.reshape(-1).tolist() if labels is not None and labels.numel() == len(rows) else None
    boxes = []
    for k, corners in enumerate(rows.tolist()[:_MOST_BOXES]):
        note = what_is_wrong(corners, width, height)
        label = f"class {numbers[k]}" if numbers is not None else None
        boxes.append(Box(tuple(corners), "anomaly" if note else "target", label, note))
    words = [f"{len(rows)} target boxes"] if len(rows) else ["no target box"]
    n_bad = sum(box.kind == "anomaly" for box in boxes)
    if n_bad:
        words.append(f"{n_bad} of them anomalous")
    return tuple(boxes), tuple(words)


def _is_table(tensor: Any) -> bool:
    return bool(tensor.dim() >= 2 and tensor.shape[-1] == 4)


def what_is_wrong(corners: list[float], width: int, height: int) -> str | None:
    """Return what is wrong with a box x1, y1, x2, y2 in an image of this size; None where nothing is."""
    if not all(map(math.isfinite, corners)):
        return "a corner is not finite"
    x1, y1, x2, y2 = corners
    if x2 < x1 or y2 < y1:
        return f"its size is negative: {x2 - x1:g} x {y2 - y1:g}"
    if x2 - x1 < _TINY or y2 - y1 < _TINY:
        return f"no {'width' if x2 - x1 < _TINY else 'height'}: {x2 - x1:g} x {y2 - y1:g}"
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return "outside of the image"
    return None


def _mask(leaves: list[tuple[str, Any]], height: int, width: int, scale: float) -> tuple[bytes | None, tuple[str, ...]]:
    for _, tensor in leaves:
        if tensor.is_floating_point() or tensor.is_complex():
            continue
        if tuple(tensor.shape[-2:]) != (height, width):
            continue
        planes = tensor.reshape(-1, height, width).to(torch.int64)
        if len(planes) == 1:
            return png.mask_png(planes[0], scale), (png.mask_facts(planes[0]),)
        if int(planes.max()) <= 1:  # one plane for each object
            numbers = torch.arange(1, len(planes) + 1)[:, None, None]
            return png.mask_png((planes * numbers).amax(0), scale), (f"masks of {len(planes)} objects",)
    return None, ()
