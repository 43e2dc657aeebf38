"""Files beside report.json: pictures that its page shows, what `whynan data` wrote there, history.npz."""

import ast
import io
import json
import struct
import zipfile
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DATA = "data.json"
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_PICTURE = 8_000_000
_LARGEST_DATA = 20_000_000


def read_pictures(report: dict[str, Any], out: Path) -> dict[str, bytes]:
    """Return the content of the PNG files that a report names; what is missing or no PNG is left out."""
    found: dict[str, bytes] = {}
    for incident in report["incidents"]:
        for picture in incident.get("pictures") or ():
            for key in ("file", "overlay"):
                # Only the name counts: a report must not make us read elsewhere.
                name = Path(str(picture.get(key) or "")).name
                content = _read(out / name, _LARGEST_PICTURE) if name.endswith(".png") else None
                if content is not None and content.startswith(_PNG):
                    found[name] = content
    return found


def read_data(out: Path) -> dict[str, Any] | None:
    """Return data.json beside a report, as `whynan data PATH --json DIR/data.json` writes it; None if there is none."""
    content = _read(out / DATA, _LARGEST_DATA)
    try:
        data = json.loads(content) if content is not None else None
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and data.get("schema") == "whynan.data/1" else None


def _read(path: Path, most: int) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= most else None
    except OSError:
        return None


_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNMENT = 64
"""numpy aligns the data after the header to 64 bytes, so that arrays can be mapped into memory."""


def to_npz(series: Mapping[str, Iterable[float]]) -> bytes:
    """Return the bytes of an .npz archive of the series, each a float64 array under its name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in series.items():
            # A fixed date: the same history gives the same bytes.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, _to_npy(values))
    return buffer.getvalue()


def read_npz(path: Path) -> dict[str, tuple[float, ...]]:
    """Return the float64 series of an archive written by `to_npz`. Raises OSError or ValueError; never unpickles."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _from_npy(archive.read(name)) for name in archive.namelist()}
    except (zipfile.BadZipFile, struct.error, SyntaxError, RuntimeError, KeyError, EOFError) as error:
        raise ValueError(f"{path} is not a history archive: {error}") from error


def _to_npy(values: Iterable[float]) -> bytes:
    numbers = [float(value) for value in values]
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({len(numbers)},), }}"
    used = len(_MAGIC) + 2 + len(header) + 1
    header += " " * (-used % _ALIGNMENT) + "\n"
    return (
        _MAGIC + struct.pack("<H", len(header)) + header.encode("latin-1") + struct.pack(f"<{len(numbers)}d", *numbers)
    )


def _from_npy(data: bytes) -> tuple[float, ...]:
    if not data.startswith(_MAGIC):
        raise ValueError("not an .npy file of version 1")
    start = len(_MAGIC) + 2
    (length,) = struct.unpack("<H", data[start - 2 : start])
    header = ast.literal_eval(data[start : start + length].decode("latin-1"))
    if not isinstance(header, dict) or header.get("descr") != "<f8":
        raise ValueError("not a float64 array")
    body = data[start + length :]
    numbers = array("d")
    numbers.frombytes(body[: len(body) // 8 * 8])
    if struct.pack("=d", 1.0) != struct.pack("<d", 1.0):
        numbers.byteswap()
    return tuple(numbers)
