"""CSV and Parquet: columns of numbers, read in pieces of rows. WebDataset shards: samples, a member at a time."""

import csv
import io
import json
import math
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from whynan.data.finding import need
from whynan.data.measure import ArrayMeasure, is_target_name
from whynan.data.readers import images
from whynan.data.units import Problem, shown

ROWS = 4096
"""Rows of a piece."""
MISSING = {"", "na", "n/a", "#n/a", "null", "none", "nan", "-nan", "<na>", "?"}
"""What a cell without a value looks like; the common readers make NaN of nearly all of them."""
_MOSTLY = 0.9
"""A column is one of numbers if this share of its cells, in the first piece, are numbers."""
_MOST_PROBLEMS = 1000
LABELS = ("cls", "cls2", "index")
MOST_MEMBER = 1 << 30
"""Bytes of a shard's member that is read."""


def read_csv(file: IO[bytes], name: str) -> dict[str, Any]:
    """Return {"arrays": measures, "problems": problems, "classes": texts of a target column with counts}."""
    return _Csv(name).read(file)


class _Csv:
    def __init__(self, name: str) -> None:
        self.problems: list[Problem] = []
        self.name = name
        self.classes: dict[str, int] = {}
        self.inputs: ArrayMeasure | None = None
        self.targets: list[ArrayMeasure] = []
        self.class_column: int | None = None
        self.n = 0

    def read(self, file: IO[bytes]) -> dict[str, Any]:
        try:
            self._read(io.TextIOWrapper(file, "utf-8-sig", errors="strict", newline=""))
        except UnicodeDecodeError as error:
            where = f"after row {self.n}: byte 0x{error.object[error.start]:02x} is not UTF-8"
            self.problems.append(("annotation-unreadable", None, "encoding", where))
        except csv.Error as error:
            self.problems.append(("annotation-unreadable", None, "CSV", f"after row {self.n}: {error}"))
        measures = [self.inputs] if self.inputs is not None else []
        return {
            "arrays": [measure.to_facts() for measure in (*measures, *self.targets) if measure is not None],
            "problems": self.problems,
            "classes": self.classes,
        }

    def _read(self, text: IO[str]) -> None:
        head = text.read(65536)
        if not head.strip():
            self.problems.append(("annotation-file-empty:error", None, "0 rows", "the file is empty"))
            return
        try:
            dialect: Any = csv.Sniffer().sniff(head[: head.rfind("\n") + 1] or head, delimiters=",;\t|")
        except csv.Error:
            dialect = csv.excel
        # The sniffer is asked for the delimiter alone: it guesses wrong about quotes too often.
        rows = csv.reader(_joined(head, text), delimiter=dialect.delimiter)
        first = next(rows)
        has_header = not any(_number(cell) is not None for cell in first)
        header = [cell.strip() for cell in first] if has_header else [f"column {k}" for k in range(len(first))]
        piece: list[list[str]] = [] if has_header else [first]
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                self._problem(
                    "annotation-unreadable", self.n + len(piece), f"{len(row)} cells",
                    f"line {rows.line_num} has {len(row)} cells, the header has {len(header)}",
                )  # fmt: skip
                row = (row + [""] * len(header))[: len(header)]
            piece.append(row)
            if len(piece) >= ROWS:
                self._add(piece, header)
                piece = []
        if piece or self.inputs is None:
            self._add(piece, header)

    def _problem(self, slug: str, row: int | None, value: str, message: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append((slug, row, value, message))

    def _add(self, piece: list[list[str]], header: list[str]) -> None:
        columns = list(zip(*piece)) if piece else [() for _ in header]
        if self.inputs is None:
            self._choose(columns, header)
        assert self.inputs is not None and self.inputs.columns is not None
        first = self.n
        self.n += len(piece)
        matrix = [self._numbers(columns[k], header[k], first) for k in self.inputs.columns]
        if matrix:
            self.inputs.add(np.stack(matrix, axis=1) if piece else np.zeros((0, len(matrix))))
        for measure in self.targets:
            (k,) = measure.columns or (0,)
            values = self._numbers(columns[k], header[k], first)
            if measure.dtype == "int64" and np.isfinite(values).all() and (values == np.floor(values)).all():
                measure.add(values.astype(np.int64))
            else:
                measure.add(values)
        if self.class_column is not None:
            for row, cell in enumerate(columns[self.class_column]):
                text = cell.strip()
                if text.lower() in MISSING:
                    self._problem(
                        "label-missing",
                        first + row,
                        cell or "blank",
                        f"row {first + row} has no {header[self.class_column]}",
                    )
                else:
                    self.classes[text] = self.classes.get(text, 0) + 1

    def _choose(self, columns: list[Any], header: list[str]) -> None:
        numeric = [k for k, cells in enumerate(columns) if _is_numeric(cells)]
        targets = [k for k in range(len(header)) if is_target_name(header[k])]
        inputs = [k for k in numeric if k not in targets]
        self.inputs = ArrayMeasure(
            None,
            self.name,
            "float64",
            [0, len(inputs)],
            names=[header[k] for k in inputs],
            columns=inputs,
            is_target=False,
        )
        for k in targets:
            if k in numeric:
                numbers = [_number(cell) for cell in columns[k]]
                whole = all(value is None or (math.isfinite(value) and value == math.floor(value)) for value in numbers)
                self.targets.append(
                    ArrayMeasure(None, header[k], "int64" if whole else "float64", [0], [header[k]], [k], True)
                )
            elif self.class_column is None:
                self.class_column = k

    def _numbers(self, cells: Any, column: str, first: int) -> Any:
        try:
            return np.array(cells, dtype=np.float64)
        except ValueError:
            pass
        values = np.empty(len(cells))
        for row, cell in enumerate(cells):
            value = _number(cell)
            if value is None and cell.strip().lower() not in MISSING:
                self._problem(
                    "annotation-unreadable:warning", first + row, shown(cell),
                    f"row {first + row}: {column} is {shown(cell)!r} in a column of numbers",
                )  # fmt: skip
            values[row] = math.nan if value is None else value
        return values


def _joined(head: str, text: IO[str]) -> Iterator[str]:
    lines = head.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += text.readline()
    yield from lines
    yield from text


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _is_numeric(cells: Any) -> bool:
    filled = [cell for cell in cells if cell.strip().lower() not in MISSING]
    return bool(filled) and sum(_number(cell) is not None for cell in filled) >= _MOSTLY * len(filled)


def read_parquet(file: IO[bytes], name: str) -> dict[str, Any]:
    """Return the same of a Parquet file, by pyarrow, one batch of rows at a time."""
    parquet = need("pyarrow.parquet", "parquet", "reading Parquet")
    found: dict[str, Any] = {"arrays": [], "problems": [], "classes": {}}
    try:
        table = parquet.ParquetFile(file)
        schema = table.schema_arrow
        kinds = {k: field for k, field in enumerate(schema) if _is_number_type(field.type)}
        inputs = [k for k, field in kinds.items() if not is_target_name(field.name)]
        measure = ArrayMeasure(
            None, name, "float64", [0, len(inputs)], [schema.names[k] for k in inputs], inputs, is_target=False
        )
        targets = {
            k: ArrayMeasure(None, field.name, str(field.type), [0], [field.name], [k], True)
            for k, field in kinds.items() if is_target_name(field.name)
        }  # fmt: skip
        for batch in table.iter_batches(batch_size=ROWS):
            columns = [_to_numbers(batch.column(k)) for k in inputs]
            if columns:
                measure.add(np.stack(columns, axis=1))
            for k, target in targets.items():
                values = batch.column(k).to_numpy(zero_copy_only=False)
                target.add(values if values.dtype.kind in "biu" else values.astype(np.float64))
        found["arrays"] = [each.to_facts() for each in ([measure] if inputs else []) + list(targets.values())]
    except MemoryError:
        raise
    except Exception as error:  # pyarrow's own exceptions are children of many built-in ones
        found["problems"].append(("annotation-unreadable", None, "Parquet", f"cannot be read: {shown(error, 120)}"))
    return found


def _is_number_type(kind: Any) -> bool:
    types = need("pyarrow.types", "parquet", "reading Parquet")
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def _to_numbers(column: Any) -> Any:
    values = column.to_numpy(zero_copy_only=False)
    return values.astype(np.float64) if values.dtype != object else np.array([_float(v) for v in values])


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def read_shard(file: IO[bytes], exact: bool = False) -> Iterator[tuple[str, str, Any]]:
    """Yield ("image", member, facts), ("array", member, measures), ("label", member, number), ("problem", member,
    problem) and, for each sample, ("sample", key, its extensions), in the order of the shard."""
    key, parts = "", list[str]()
    done: set[int] = set()
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                if not member.isfile() or member.name.rpartition("/")[2].startswith("."):
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if folder + slash + stem != key:
                    if key:
                        yield "sample", key, parts
                    key, parts = folder + slash + stem, []
                    # A checksum of each key: all keys themselves would not fit in bounded memory.
                    digest = zlib.crc32(key.encode("utf-8", "surrogateescape")) << 32 | zlib.adler32(
                        key.encode("utf-8", "surrogateescape")
                    )
                    if digest in done:
                        text = f"the key {key} was there before: its parts stand apart, or it comes twice"
                        yield "problem", member.name, ("annotation-unreadable:warning", None, key, text)
                    done.add(digest)
                parts.append(extension.lower())
                if member.size > MOST_MEMBER:
                    text = f"it has {member.size:,} bytes, more than are read"
                    yield "problem", member.name, ("annotation-unreadable", None, f"{member.size} bytes", text)
                    continue
                opened = archive.extractfile(member)
                if opened is not None:
                    yield from _read_member(member.name, extension.lower(), opened.read(), exact)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        text = f"cannot be read beyond {key or 'its beginning'}: {shown(error, 120)}"
        yield "problem", "", ("shard-unreadable", None, key or "header", text)
    if key:
        yield "sample", key, parts


def _read_member(name: str, extension: str, data: bytes, exact: bool) -> Iterator[tuple[str, str, Any]]:
    last = extension.rpartition(".")[2]
    if last in images.EXTENSIONS:
        yield "image", name, images.read(data, exact)
    elif last in LABELS:
        try:
            yield "label", name, int(data.decode("ascii").strip())
        except ValueError:
            text = f"label is {shown(data)!r}, no integer"
            yield "problem", name, ("annotation-unreadable", None, shown(data), text)
    elif last in ("npy", "npz"):
        yield "array", name, images.read_arrays(io.BytesIO(data), name)
    elif last == "json":
        problem = _json_problem(data)
        if problem is not None:
            yield "problem", name, problem


def _json_problem(data: bytes) -> Problem | None:
    try:
        json.loads(data)
    except json.JSONDecodeError as error:
        text = f"line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}"
        return "annotation-unreadable", None, f"line {error.lineno}", text
    except (ValueError, RecursionError) as error:
        return "annotation-unreadable", None, "JSON", f"malformed JSON: {shown(error)}"
    return None
