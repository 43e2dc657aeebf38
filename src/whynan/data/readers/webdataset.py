"""WebDataset shards: tar files whose members of one sample stand together and share their name up to the first dot."""

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from whynan.data.readers import arrays, images
from whynan.data.readers.problems import Problem, shown

LABELS = ("cls", "cls2", "index")
MOST_MEMBER = 1 << 30
"""Bytes of a member that is read."""

Facts = dict[str, Any]


def read(file: IO[bytes], exact: bool = False) -> Iterator[tuple[str, str, Any]]:
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
        yield "array", name, arrays.read(io.BytesIO(data), name)
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
