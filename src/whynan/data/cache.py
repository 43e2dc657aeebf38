"""What was read of files, kept by name, size and time of change, so that a second look reads none of them again."""

import contextlib
import hashlib
import os
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path

import whynan
from whynan.data.storage import Entry, Stamp, Storage

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
        """Whether anything is kept."""
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
