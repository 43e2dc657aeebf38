""".npy and .npz: arrays read in pieces of rows, never unpickled."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from whynan.data.measure import ArrayMeasure
from whynan.data.units import shown

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


def read(file: IO[bytes], name: str) -> dict[str, Any]:
    """Return {"arrays": [measures, one for each array], "problems": [(key, what)]} of a .npy or .npz."""
    found: dict[str, Any] = {"arrays": [], "problems": []}
    try:
        if name.lower().endswith(".npz"):
            _read_npz(file, found)
        else:
            found["arrays"].append(measure(open_npy(file), None, name.rpartition("/")[2].rpartition(".")[0]))
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
                    found["arrays"].append(measure(open_npy(inner), key, key))
            except Exception as error:  # zlib, zipfile and numpy each have their own; the next array may be sound
                found["problems"].append((key, shown(error, 120) or type(error).__name__))


def measure(array: NpyFile, key: str | None, name: str) -> dict[str, Any]:
    measured = ArrayMeasure(key=key, name=name, dtype=str(array.dtype), shape=list(array.shape))
    if array.dtype.kind not in "biufc":
        measured.note = f"dtype {array.dtype}: not looked at, it holds no numbers"
        return measured.to_facts()
    for piece in array.pieces():
        measured.add(piece)
    return measured.to_facts()
