"""Image files and arrays to numbers, masks to class indices, and COCO's run-length encoding of masks."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from whynan.data.finding import need
from whynan.data.measure import ArrayMeasure
from whynan.data.units import shown

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

_INDEXED = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
MOST_VALUES = 4096
"""Different values of a mask that are kept; class indices are far fewer."""


def load() -> Any:
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
    wanted = EXTENSIONS.get(extension)
    return wanted is None or wanted == format_ or wanted == _ALIKE.get(format_) or wanted in format_


def read_mask(data: bytes, is_array: bool) -> Facts:
    """Return "size", "mode" and how often each value comes ("values"), or "error". NaN and infinities are counted
    apart."""
    if not data:
        return {"error": "the file is empty"}
    try:
        return _count(_array(data)) if is_array else _read_mask_image(data)
    except MemoryError:
        return {"error": "there is not enough memory to read it"}
    except Exception as error:  # a broken file makes a decoder raise nearly anything
        return {"error": explain(error)}


def _array(data: bytes) -> Any:
    return open_npy(io.BytesIO(data)).read_all()


def _read_mask_image(data: bytes) -> Facts:
    with open_image(io.BytesIO(data)) as image:
        facts: Facts = {"size": image.size, "mode": image.mode, "format": image.format}
        if image.width * image.height > MOST_PIXELS:
            return facts | {"error": f"it claims {image.width} x {image.height} pixels (a decompression bomb?)"}
        image.load()
        if image.mode in ("L", "P"):
            counts = image.histogram()
            return facts | {"values": {value: n for value, n in enumerate(counts) if n}}
        if image.mode in _INDEXED:
            return facts | _count(np.asarray(image))
        bands = [np.asarray(band) for band in image.getbands() and image.split()]
        if len(bands) >= 3 and (bands[0] == bands[1]).all() and (bands[1] == bands[2]).all():
            return facts | _count(bands[0])  # grey, saved with three channels
        return facts | {"colours": True}


def _count(array: Any) -> Facts:
    array = np.squeeze(array)
    if array.ndim != 2:
        return {"error": f"it has shape {list(array.shape)}, and a mask has two dimensions"}
    facts: Facts = {"size": (int(array.shape[1]), int(array.shape[0]))}
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind == "f":
        facts |= {"nan": int(np.isnan(array).sum()), "inf": int(np.isinf(array).sum())}
        array = array[np.isfinite(array)]
        whole = array == np.floor(array)
        facts["fractions"] = int((~whole).sum())
        array = array[whole].astype(np.int64)
    elif array.dtype.kind not in "iu":
        return facts | {"error": f"its dtype is {array.dtype}, no number"}
    values, counts = np.unique(array, return_counts=True)
    facts["values"] = dict(zip(values[:MOST_VALUES].tolist(), counts[:MOST_VALUES].tolist()))
    return facts


def rle_area(rle: dict[str, Any]) -> tuple[int, int]:
    """Return (pixels of the mask, pixels of the image that the runs add up to). Raises ValueError where it is no
    RLE."""
    counts = rle.get("counts")
    if isinstance(counts, str):
        runs = decompress_rle(counts)
    elif isinstance(counts, list):
        try:
            runs = np.array(counts, dtype=np.int64)
        except (ValueError, TypeError, OverflowError):
            raise ValueError("counts are no integers") from None
    else:
        raise ValueError("it has no counts")
    if runs.ndim != 1 or (len(runs) and int(runs.min()) < 0):
        raise ValueError("a run is negative")
    return int(runs[1::2].sum()), int(runs.sum())


def decompress_rle(counts: str) -> Any:
    """Return the runs i64[n] of a compressed RLE: 5 bits a character, bit 6 says that more follow; from the third run
    on each number is the difference to the run before the last (maskApi.c of the COCO API)."""
    codes = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if len(codes) and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 32):
        raise ValueError("counts are not in COCO's encoding")
    if not len(codes):
        return codes
    last = (codes & 32) == 0
    starts = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    ends = np.flatnonzero(last)
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    if shifts.max() > 55:
        raise ValueError("a run is too long")
    values = np.add.reduceat((codes & 31) << shifts, starts)
    negative = (codes[ends] & 16) != 0  # the sign is extended from the last character
    values = np.where(negative, values - (np.int64(1) << (shifts[ends] + 5)), values)
    # x[k] += x[k - 2] for k > 2: cumulated over the odd places, and over the even ones from the third on.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def rle_pixels(rle: dict[str, Any]) -> Any:
    """Return the mask, bool[h, w]. Raises ValueError where it is no RLE."""
    height, width = (int(side) for side in rle["size"])
    counts = rle["counts"]
    runs = decompress_rle(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64)
    if int(runs.sum()) != height * width or (len(runs) and runs.min() < 0):
        raise ValueError("the runs do not add up to the image")
    flat: Any = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


PIECE = 8 << 20
"""Bytes of an array that are in memory at once."""


@dataclass
class NpyFile:
    """An open .npy: shape and dtype are read, the data are not."""

    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: Any
    is_fortran: bool

    def pieces(self) -> Iterator[Any]:
        if self.is_fortran or not self.shape:
            yield self.read_all().reshape(self.shape if self.shape else (1,))
            return
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        n_rows = max(1, PIECE // max(1, row))
        for start in range(0, self.shape[0], n_rows):
            n = min(n_rows, self.shape[0] - start)
            data = _read_exactly(self.file, n * row)
            yield np.frombuffer(data, self.dtype).reshape(n, *self.shape[1:])

    def read_all(self) -> Any:
        n = int(np.prod(self.shape, dtype=np.int64))
        data = _read_exactly(self.file, n * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.is_fortran else "C")


def open_npy(file: IO[bytes]) -> NpyFile:
    """Read the header of a .npy. Raises ValueError where it is none, or would have to be unpickled."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not unpickled: loading them could run anything")
    return NpyFile(file, shape, dtype, is_fortran)


def _read_exactly(file: IO[bytes], n: int) -> bytes:
    parts, missing = [], n
    while missing:
        data = file.read(missing)
        if not data:
            raise ValueError(f"it ends {missing:,} bytes too early")
        parts.append(data)
        missing -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_arrays(file: IO[bytes], name: str) -> dict[str, Any]:
    """Return {"arrays": [measures, one for each array], "problems": [(key, what)]} of a .npy or .npz."""
    found: dict[str, Any] = {"arrays": [], "problems": []}
    try:
        if name.lower().endswith(".npz"):
            _read_npz(file, found)
        else:
            found["arrays"].append(measure_array(open_npy(file), None, name.rpartition("/")[2].rpartition(".")[0]))
    except (ValueError, zipfile.BadZipFile, EOFError, OSError, SyntaxError, OverflowError) as error:
        found["problems"].append((None, shown(error, 120) or "it is no array file"))
    except MemoryError:
        found["problems"].append((None, "there is not enough memory to read it"))
    return found


def _read_npz(file: IO[bytes], found: dict[str, Any]) -> None:
    with zipfile.ZipFile(file if file.seekable() else io.BytesIO(file.read())) as archive:
        for member in archive.namelist():
            key = member.removesuffix(".npy")
            try:
                with archive.open(member) as inner:
                    found["arrays"].append(measure_array(open_npy(inner), key, key))
            except Exception as error:  # zlib, zipfile and numpy each have their own; the next array may be sound
                found["problems"].append((key, shown(error, 120) or type(error).__name__))


def measure_array(array: NpyFile, key: str | None, name: str) -> dict[str, Any]:
    measured = ArrayMeasure(key=key, name=name, dtype=str(array.dtype), shape=list(array.shape))
    if array.dtype.kind not in "biufc":
        measured.note = f"dtype {array.dtype}: not looked at, it holds no numbers"
        return measured.to_facts()
    for piece in array.pieces():
        measured.add(piece)
    return measured.to_facts()
