"""Where a data set lies, and what is kept of it from one look to the next."""

import contextlib
import hashlib
import os
import sqlite3
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import whynan
from whynan.data.finding import DataError, Finding, need

Stamp = tuple[int, int, int]
"""What tells that a file is as it was: size, time of modification and of change in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the data set; `stamp` is None where the storage does not tell one."""

    name: str
    size: int
    stamp: Stamp | None


@dataclass
class Listing:
    entries: list[Entry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class Storage:
    """A root and how its files are opened. Small and picklable: workers open files by themselves."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.is_local = "://" not in root
        self._filesystem: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "is_local": self.is_local, "_filesystem": None}

    def path(self, name: str) -> str:
        return os.path.join(self.root, name) if self.is_local else f"{self._base().rstrip('/')}/{name}"

    def open(self, name: str) -> IO[bytes]:
        if self.is_local:
            return open(os.path.join(self.root, name), "rb")
        opened: IO[bytes] = self.filesystem().open(self.path(name), "rb")
        return opened

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def size(self, name: str) -> int:
        if self.is_local:
            return os.path.getsize(self.path(name))
        return int(self.filesystem().size(self.path(name)) or 0)

    def stamp(self, name: str) -> Stamp | None:
        if not self.is_local:
            return None
        return _stamp(os.stat(self.path(name)))

    def list(self) -> Listing:
        return _walk_local(self.root) if self.is_local else self._walk_remote()

    def filesystem(self) -> Any:
        if self._filesystem is None:
            fsspec = need("fsspec", "data", f"reading {self.root}")
            self._filesystem, self._path = fsspec.core.url_to_fs(self.root)
        return self._filesystem

    def _base(self) -> str:
        self.filesystem()
        return str(self._path)

    def _walk_remote(self) -> Listing:
        base = self._base().rstrip("/")
        try:
            found = self.filesystem().find(base, detail=True)
        except OSError as error:
            raise DataError(f"{self.root} cannot be listed: {error}") from error
        listing = Listing()
        for path, info in sorted(found.items()):
            name = path[len(base) :].lstrip("/")
            if name and not _is_hidden(name):
                listing.entries.append(Entry(name, int(info.get("size") or 0), None))
        return listing


def locate(path: str) -> tuple[Storage, str | None]:
    """Return the storage of a path, and the name of the one file in it that the path means (None: a whole folder)."""
    if "://" in path:
        storage = Storage(path)
        try:
            filesystem, inner = storage.filesystem(), storage._base()
            if filesystem.isdir(inner):
                return storage, None
            if not filesystem.exists(inner):
                raise DataError(f"there is nothing at {path}")
        except (OSError, ImportError, ValueError) as error:
            raise DataError(f"{path} cannot be opened: {error}") from error
        folder, _, name = path.rpartition("/")
        return Storage(folder), name
    place = Path(path)
    try:
        mode = place.stat().st_mode
    except OSError as error:
        reason = "there is no such file or folder" if isinstance(error, FileNotFoundError) else error.strerror
        raise DataError(f"{path}: {reason}") from error
    if stat.S_ISDIR(mode):
        if not os.access(place, os.R_OK | os.X_OK):
            raise DataError(f"{path}: no permission to read this folder")
        return Storage(os.path.abspath(place)), None
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is neither a folder nor a regular file")
    return Storage(os.path.abspath(place.parent)), place.name


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _walk_local(root: str) -> Listing:
    from whynan.data.finding import report

    listing = Listing()
    seen: dict[tuple[int, int], str] = {}

    def walk(folder: str, name: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        try:
            status = os.stat(folder)
            key = (status.st_dev, status.st_ino)
            if key in above:
                listing.findings.append(
                    report("symlink-loop", name, os.readlink(folder), "leads back to a folder above")
                )
                return
            if key in seen:  # a second way to the same folder: its files would look like copies
                return
            seen[key] = name
            children = sorted(os.scandir(folder), key=lambda child: child.name)
        except OSError as error:
            listing.findings.append(
                report(
                    "folder-unreadable", name or ".", error.strerror, f"this folder cannot be read: {error.strerror}"
                )
            )
            return
        for child in children:
            if child.name[0] == "." or child.name == "__MACOSX":
                continue
            inner = f"{name}/{child.name}" if name else child.name
            try:
                if child.is_dir():
                    yield from walk(child.path, inner, (*above, key))
                    continue
                status = child.stat()
                if stat.S_ISREG(status.st_mode):
                    yield Entry(inner, status.st_size, _stamp(status))
            except OSError as error:
                if child.is_symlink():
                    text = os.readlink(child.path)
                    slug, what = (
                        ("symlink-loop", "goes in a circle")
                        if error.errno == 40
                        else ("symlink-broken", "leads nowhere")
                    )
                    listing.findings.append(report(slug, inner, text, f"this symbolic link {what}"))
                # Anything else vanished between two system calls: it is not part of the set any more.

    listing.entries.extend(walk(root, "", ()))
    return listing


_FORMAT = f"1 {whynan.__version__} {sys.version_info[:2]}"
_MANY = 500


class Cache:
    """Facts of files. Without a place it keeps nothing, and every look reads."""

    def __init__(self, place: Path | None, entries: Iterable[Entry]) -> None:
        self._stamps: dict[str, Stamp] = {}
        self._database: sqlite3.Connection | None = None
        if place is None:
            return
        self._stamps = {entry.name: entry.stamp for entry in entries if entry.stamp is not None}
        # A cache that cannot be opened or has gone bad costs time and nothing else.
        with contextlib.suppress(OSError, sqlite3.Error):
            self._database = _open(place)

    @property
    def is_open(self) -> bool:
        return self._database is not None

    def get(self, kind: str, name: str) -> bytes | None:
        """Return what is known of a file, None if nothing or if it has changed."""
        return self.get_many(kind, [name]).get(name)

    def get_many(self, kind: str, names: list[str]) -> dict[str, bytes]:
        """Return what is known of the files that are as they were."""
        if self._database is None:
            return {}
        found: dict[str, bytes] = {}
        names = [name for name in names if _is_text(name)]
        try:
            for start in range(0, len(names), _MANY):
                asked = names[start : start + _MANY]
                marks = ",".join("?" * len(asked))
                rows = self._database.execute(
                    f"SELECT name, size, modified, changed, facts FROM facts WHERE kind = ? AND name IN ({marks})",
                    (kind, *asked),
                )
                found.update({name: facts for name, *stamp, facts in rows if self._stamps.get(name) == tuple(stamp)})
        except sqlite3.Error:
            self._database = None
        return found

    def put(self, kind: str, name: str, facts: bytes) -> None:
        self.put_many([(kind, name, facts)])

    def put_many(self, fresh: Iterable[tuple[str, str, bytes]]) -> None:
        """Keep what was read. A file that changed while it was read has another time, and is read again next time."""
        if self._database is None:
            return
        rows = [
            (kind, name, *self._stamps[name], facts)
            for kind, name, facts in fresh
            if name in self._stamps and _is_text(name)
        ]
        try:
            self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error:
            self._database = None

    def close(self) -> None:
        if self._database is None:
            return
        with contextlib.suppress(sqlite3.Error):
            self._database.commit()
            self._database.close()
        self._database = None


def _is_text(name: str) -> bool:
    """A file name of bytes that are no UTF-8 cannot be a key of the database."""
    return name.isascii() or name.encode("utf-8", "ignore").decode("utf-8") == name


def default_folder() -> Path:
    """Return where caches go: $WHYNAN_CACHE, or `whynan` in the user's cache folder."""
    if place := os.environ.get("WHYNAN_CACHE"):
        return Path(place)
    base = os.environ.get("XDG_CACHE_HOME") or (
        os.environ.get("LOCALAPPDATA", "") if os.name == "nt" else os.path.expanduser("~/.cache")
    )
    return Path(base or ".") / "whynan"


def place_of(storage: Storage) -> Path | None:
    """Return the cache file of a data set; None where files do not tell when they were changed."""
    if not storage.is_local:
        return None
    name = hashlib.blake2b(os.path.realpath(storage.root).encode("utf-8", "surrogateescape"), digest_size=12)
    return default_folder() / "data" / f"{name.hexdigest()}.sqlite"


def _open(place: Path) -> sqlite3.Connection:
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = _connect(place)
    if _version(database) != _FORMAT:
        database.close()
        place.unlink(missing_ok=True)
        database = _connect(place)
        # Durability is not worth waiting for: what is lost in a crash is read again.
        database.execute("PRAGMA journal_mode = MEMORY")
        database.execute("CREATE TABLE about (value TEXT)")
        database.execute("INSERT INTO about VALUES (?)", (_FORMAT,))
        database.execute(
            "CREATE TABLE facts (kind TEXT, name TEXT, size INTEGER, modified INTEGER, changed INTEGER, facts BLOB, "
            "PRIMARY KEY (kind, name)) WITHOUT ROWID"
        )
    return database


def _version(database: sqlite3.Connection) -> str:
    try:
        row = database.execute("SELECT value FROM about").fetchone()
    except sqlite3.DatabaseError:  # no database, or another one
        return ""
    return str(row[0]) if row else ""


def _connect(place: Path) -> sqlite3.Connection:
    return sqlite3.connect(place, timeout=1.0)
