"""A recording into a folder: report.json, report.html and history.npz, each whole or not at all."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from whynan.errors import OutputError
from whynan.records import Recording
from whynan.records.numbers import to_jsonable
from whynan.report.beside import read_data, read_pictures, to_npz
from whynan.report.source import add_contexts

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
    """Take away the pictures of a report that is about to be replaced: they would belong to nothing."""
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
