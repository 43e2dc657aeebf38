"""A recording in a folder: report.json, report.html, history.npz and pictures; each whole or not at all; read again."""

import ast
import io
import json
import os
import struct
import zipfile
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from whynan.errors import OutputError, ReportError
from whynan.records import SCHEMA, Recording
from whynan.records.op import to_jsonable
from whynan.report.model import add_contexts
from whynan.report.schema import find_fault, schema

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


def load(out: Path) -> dict[str, Any]:
    """Return report.json of a folder. Raises ReportError where it is missing, broken or of another version."""
    path = out / REPORT
    parsed = _parse(path)
    report: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    version = report.get("schema")
    if version != SCHEMA:
        raise ReportError(
            f"{path} is of format {version!r}, and this whynan reads {SCHEMA!r}; {_other_version(version)}"
        )
    fault = find_fault(report, schema())
    if fault:
        raise ReportError(f"{path} is not a whole report: {fault}; run `whynan run` again")
    return report


def load_history(report: dict[str, Any], out: Path) -> dict[str, tuple[float, ...]]:
    """Return the series of a report's history; those that cannot be read are left out, a report is whole without."""
    history = report["history"]
    if not history:
        return {}
    try:
        # Only the name counts: a report must not make us read elsewhere.
        series = read_npz(out / Path(history["file"]).name)
    except (OSError, ValueError):
        return {}
    return {name: series[name] for name in history["series"] if name in series}


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ReportError(f"there is no {path}; `whynan run --out {path.parent} SCRIPT` writes one") from error
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}; run `whynan run` again") from error


def _other_version(version: object) -> str:
    if isinstance(version, str) and version.startswith("whynan.report/"):
        return "use the whynan that wrote it, or run `whynan run` again"
    return "is it a report of whynan?"


REPORT = "report.json"
PAGE = "report.html"
HISTORY = "history.npz"


def save(recording: Recording, out: Path, *, roots: Sequence[Path] = (Path(),)) -> None:
    """Write a recording's report into `out`, which is made if it is not there. Nothing else is written.

    The files that the recording names are looked for below `roots`: the script may have left its working directory.
    Raises OutputError with path and reason; whatever else could be written has been written then.
    """
    _make(out)
    report = recording.to_json()
    add_contexts(report, roots)
    failures = []
    pictures = recording.files()
    _remove_old_pictures(out, pictures)
    for name, make in (
        *((name, lambda content=content: content) for name, content in pictures.items()),
        (REPORT, lambda: to_json_text(report).encode("ascii")),
        (HISTORY, lambda: to_npz(recording.history) if recording.history else None),
        (PAGE, lambda: _page(report, recording.history, pictures, data=read_data(out))),
    ):
        try:
            _write_made(out / name, make)
        except OutputError as error:
            failures.append(str(error))
    if failures:
        raise OutputError("; ".join(failures))


def save_page(
    report: dict[str, Any], history: dict[str, tuple[float, ...]], out: Path, roots: Sequence[Path] = ()
) -> None:
    """Write report.html again from a report that was read. Raises OutputError."""
    pictures = read_pictures(report, out)
    _write_made(out / PAGE, lambda: _page(report, history, pictures, roots, read_data(out)))


def to_json_text(report: dict[str, Any]) -> str:
    """Return report.json's text: indented, ASCII, without the NaN and Infinity that are no JSON."""
    return json.dumps(report, indent=2, allow_nan=False, default=_plain) + "\n"


def _plain(value: object) -> Any:
    """Return the Python number in a scalar of some framework, any other object's text."""
    item = getattr(value, "item", None)
    try:
        return to_jsonable(item()) if callable(item) else str(value)
    except Exception:  # an array of several elements, a tensor on a lost device
        return str(value)


def _page(
    report: dict[str, Any],
    history: dict[str, tuple[float, ...]],
    pictures: Mapping[str, bytes],
    roots: Sequence[Path] = (),
    data: dict[str, Any] | None = None,
) -> bytes:
    # Imported here: report.json must not depend on the page, not even on its templates being there.
    from whynan.report.html import render

    page = render(json.loads(to_json_text(report)), history, roots, pictures, data)
    return page.encode("utf-8", "backslashreplace")


def _remove_old_pictures(out: Path, wanted: Mapping[str, bytes]) -> None:
    for path in out.glob("incident-*-picture-*.png"):
        if path.name not in wanted:
            path.unlink(missing_ok=True)


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write the report into {out}: {_reason(error)}; choose another --out") from error


def _write_made(path: Path, make: Callable[[], bytes | None]) -> None:
    try:
        data = make()
        if data is not None:
            write_whole(path, data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}") from error
    except Exception as error:  # whatever a renderer stumbles over, the other files are written
        path.unlink(missing_ok=True)
        raise OutputError(f"cannot make {path}: {type(error).__name__}: {error}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: into a temporary file beside it, which then takes its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
