"""A tensor as a PNG file: scaled from its smallest to its largest finite value, what is not finite in magenta."""

import io
from typing import Any

import torch

_LONGEST = 640
_NOT_FINITE = (255, 0, 255)
_COLOURS = [
    (66, 133, 244), (52, 168, 83), (251, 188, 4), (171, 71, 188), (0, 172, 193), (255, 112, 67), (158, 157, 36),
    (92, 107, 192),
]  # fmt: skip
_MOST_CLASSES = 6
_NO_CLASS = (220, 30, 30)


def is_image(tensor: Any) -> bool:
    """Return whether a tensor can be shown: 1, 3 or 4 channels first, or a single plane of numbers."""
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.dim() == 3
        and tensor.shape[0] in (1, 3, 4)
        and min(tensor.shape[1:]) >= 8
        and (tensor.is_floating_point() or tensor.dtype == torch.uint8)
    )


def image_png(tensor: Any) -> tuple[bytes, float, tuple[str, ...]]:
    """Return (the PNG, its scale against the tensor, facts) of an image [C, H, W]."""
    values = tensor.detach().to("cpu", torch.float32)[:3]
    values = values if values.shape[0] == 3 else values[:1].expand(3, -1, -1)
    finite = torch.isfinite(values)
    known = values[finite]
    low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
    span = (high - low) or 1.0
    levels = ((values.nan_to_num(low, high, low) - low) / span * 255).clamp(0, 255).to(torch.uint8)
    bad = ~finite.all(dim=0)
    for channel, colour in enumerate(_NOT_FINITE):
        levels[channel][bad] = colour
    facts = [f"shown from {low:.4g} (black) to {high:.4g} (white)"] if low < high else []
    if not known.numel():
        facts.append("no value is finite")
    if bool(bad.any()):
        facts.append(f"{int(bad.sum())} of {bad.numel()} pixels are not finite, in magenta")
    elif low == high:
        facts.append(f"constant: every pixel is {low:.4g}")
    picture = _pillow().fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    scale = min(1.0, _LONGEST / max(picture.size))
    if scale < 1.0:
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    return _encoded(picture), scale, tuple(facts)


def mask_png(mask: Any, scale: float, n_classes: int | None = None) -> bytes:
    """Return the PNG of a mask [H, W] of class numbers: colours for classes, red for what is outside of them.

    Class 0 is transparent, as backgrounds are.
    """
    numbers = mask.detach().to("cpu", torch.int64)
    table = torch.tensor([(*_COLOURS[k % len(_COLOURS)], 130) for k in range(256)], dtype=torch.uint8)
    table[0] = 0
    outside = (numbers < 0) | (numbers > 255 if n_classes is None else numbers >= n_classes)
    pixels = table[numbers.clamp(0, 255)]
    pixels[outside] = torch.tensor((*_NO_CLASS, 170), dtype=torch.uint8)
    picture = _pillow().fromarray(pixels.contiguous().numpy(), "RGBA")
    if scale < 1.0:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, _pillow().Resampling.NEAREST)
    return _encoded(picture)


def mask_facts(mask: Any) -> str:
    """Return the classes of a mask with their shares, largest first: "mask: class 0 in 62 %, 255 in 38 % of it"."""
    classes, counts = mask.reshape(-1).to("cpu", torch.int64).unique(return_counts=True)
    order = counts.argsort(descending=True)[:_MOST_CLASSES].tolist()
    shares = [f"{int(classes[k])} in {int(counts[k]) / mask.numel():.0%}" for k in order]
    more = f", and {len(classes) - len(shares)} more" if len(classes) > len(shares) else ""
    return f"mask: class {', '.join(shares)} of the pixels{more}"


def is_available() -> bool:
    """Return whether Pillow, which writes the files, is installed."""
    import importlib.util

    return importlib.util.find_spec("PIL") is not None


def _pillow() -> Any:
    import PIL.Image

    return PIL.Image


def _encoded(picture: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return data.getvalue()
