"""Image files, decoded by Pillow: size, mode, and statistics of the pixels."""

import io
import zlib
from typing import IO, Any

import numpy as np

from whynan.data.extra import need
from whynan.data.readers.problems import shown

EXTENSIONS = {
    "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "png": "PNG", "bmp": "BMP", "gif": "GIF",
    "webp": "WEBP", "tif": "TIFF",
    "tiff": "TIFF", "ppm": "PPM", "pgm": "PPM", "pbm": "PPM", "jp2": "JPEG2000", "avif": "AVIF",
}  # fmt: skip
"""Extensions that are taken for images, with Pillow's name of the format."""
_ALIKE = {"MPO": "JPEG"}
"""Formats that a reader of another format takes: an MPO is a JPEG with more pictures behind it."""

MOST_PIXELS = 400_000_000
"""An image that claims to have more is not decoded: it may be a decompression bomb."""
_END = 2048
GRID = 64
"""Mean and standard deviation are taken from a grid of this many columns and rows."""
_SUSPECT = 0.5
"""Variance, of values up to 255, below which an image may be constant."""
_ONES: Any = np.ones(GRID * GRID, np.float32)
_FLOATS = {"F"}
_WIDE = {"I", "I;16", "I;16B", "I;16L", "I;16N"}

Facts = dict[str, Any]


def load() -> Any:
    """Return Pillow's Image module."""
    return need("PIL.Image", "data", "reading images")


def read(data: bytes, exact: bool = False) -> Facts:
    """Return what is known of an image: "format", "mode", "size", "crc" of its ends and "bytes" of the
    file, and of its pixels, channel by channel, "n", "sum", "sumsq", "min", "max"; or "error": what is wrong with it.

    Values are scaled as loaders do it: 8 bits by 255, 16 bits by 65535, floats as they are. `exact` counts every pixel,
    else it is a grid of 64 x 64 of them; whether a channel is constant is always told from all pixels.
    """
    # Both ends tell nearly all files apart; those that are alike are hashed whole later.
    facts: Facts = {"bytes": len(data), "crc": zlib.crc32(data[-_END:], zlib.crc32(data[:_END]))}
    if not data:
        return facts | {"error": "the file is empty"}
    image_module = load()
    try:
        with open_image(io.BytesIO(data)) as image:
            facts |= {"format": image.format, "mode": image.mode, "size": image.size}
            if image.width * image.height > MOST_PIXELS:
                what = f"it claims {image.width} x {image.height} pixels; more than {MOST_PIXELS:,} are not decoded"
                return facts | {"error": f"{what} (a decompression bomb?)"}
            image.load()
            _measure(image, image_module, facts, exact)
    except MemoryError:
        facts["error"] = "there is not enough memory to decode it"
    except Exception as error:  # a broken file makes a decoder raise nearly anything
        facts["error"] = explain(error)
    return facts


def open_image(file: IO[bytes]) -> Any:
    """Open an image without Pillow's own limit of pixels; ours is checked before decoding."""
    module = load()
    module.MAX_IMAGE_PIXELS = None
    return module.open(file)


def explain(error: Exception) -> str:
    """Return in words what a decoder's exception says."""
    text = shown(error, 120) or type(error).__name__
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is no image of a known format"
    return text[0].lower() + text[1:] if text[:2].istitle() else text


def _measure(image: Any, module: Any, facts: Facts, exact: bool) -> None:
    if image.mode in ("P", "1", "PA", "LA", "La", "RGBa"):
        image = image.convert(
            "RGB"
            if image.mode == "P"
            else "L"
            if image.mode == "1"
            else "RGBA"
            if image.mode == "PA"
            else "LA"
            if image.mode == "La"
            else image.mode
        )
    grid = image
    if not exact and (image.width > GRID or image.height > GRID):
        grid = image.resize((min(GRID, image.width), min(GRID, image.height)), module.Resampling.NEAREST)
    bands = len(image.getbands())
    scale = 1.0 if image.mode in _FLOATS else 65535.0 if image.mode in _WIDE else 255.0
    if image.mode in _FLOATS or image.mode in _WIDE:
        facts |= _measure_wide(np.asarray(image).astype(np.float64), scale)
        return
    values = np.frombuffer(grid.tobytes(), np.uint8).reshape(-1, bands)
    # Matrix products are far faster than sums along an axis of three; float32 is exact enough where pixels are few.
    values = values.astype(np.float32 if grid is not image else np.float64)
    n = len(values)
    total = (_ONES[:n] if n <= len(_ONES) else np.ones(n, np.float32)) @ values
    squares = (values.T @ values).diagonal()
    total, squares = [float(t) for t in total], [float(q) for q in squares]
    facts["n"] = n
    facts["sum"] = [t / scale for t in total]
    facts["sumsq"] = [q / scale**2 for q in squares]
    # Where the grid hardly varies the whole image may be constant: look at each pixel of it.
    if any(q / n - (t / n) ** 2 < _SUSPECT for t, q in zip(total, squares)):
        extrema = [(low, high) for low, high in _extrema(image)]
        facts["flat"] = [low == high for low, high in extrema]
        facts["level"] = [low / scale for low, _ in extrema]


def _extrema(image: Any) -> list[tuple[float, float]]:
    found = image.getextrema()
    return list(found) if isinstance(found[0], tuple) else [found]


def _measure_wide(values: Any, scale: float) -> Facts:
    finite = np.isfinite(values)
    facts: Facts = {
        "nan": int(np.isnan(values).sum()),
        "inf": int(np.isinf(values).sum()),
        "wide": True,
    }
    kept = values[finite] if not finite.all() else values.reshape(-1)
    scaled = kept / scale
    low, high = (float(kept.min()), float(kept.max())) if len(kept) else (0.0, 0.0)
    with np.errstate(over="ignore"):
        facts |= {"n": len(kept), "sum": [float(scaled.sum())], "sumsq": [float((scaled * scaled).sum())]}
    return facts | {"flat": [low == high], "level": [low / scale], "range": [low, high]}


def is_right_extension(extension: str, format_: str) -> bool:
    """Tell whether a file's extension is one of its format's."""
    wanted = EXTENSIONS.get(extension)
    return wanted is None or wanted == format_ or wanted == _ALIKE.get(format_) or wanted in format_
