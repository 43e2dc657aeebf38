"""Beginnings of files, by which formats are told; kept in the cache like everything else that is read."""

from typing import Any

from whynan.data.cache import Cache
from whynan.data.readers import images
from whynan.data.storage import Storage
from whynan.data.units import pack, unpack

LENGTH = 1 << 16
MOST_TEXT = 4 << 20
"""Bytes of a configuration that are read."""


class Heads:
    """Reads beginnings, once."""

    def __init__(self, storage: Storage, cache: Cache) -> None:
        self._storage = storage
        self._cache = cache

    def head(self, name: str) -> bytes:
        """Return the first bytes of a file, nothing where it cannot be read."""
        return bytes(self._kept("head", name, lambda: self._read(name, LENGTH)))

    def text(self, name: str) -> bytes:
        """Return a whole configuration file. Raises OSError."""
        known = self._cache.get("text", name)
        if known is not None:
            return bytes(unpack(known))
        data = self._read_or_raise(name, MOST_TEXT)
        self._cache.put("text", name, pack(data))
        return data

    def image_mode(self, name: str) -> str | None:
        """Return the mode of an image as its header says, None where there is none."""
        mode = self._kept("mode", name, lambda: self._mode(name))
        return str(mode) if mode is not None else None

    def _mode(self, name: str) -> str | None:
        try:
            with self._storage.open(name) as file, images.open_image(file) as image:
                return str(image.mode)
        except Exception:  # a broken header makes a decoder raise nearly anything; its own finding comes later
            return None

    def _kept(self, kind: str, name: str, read: Any) -> Any:
        known = self._cache.get(kind, name)
        if known is not None:
            return unpack(known)
        value = read()
        self._cache.put(kind, name, pack(value))
        return value

    def _read(self, name: str, length: int) -> bytes:
        try:
            return self._read_or_raise(name, length)
        except OSError:
            return b""

    def _read_or_raise(self, name: str, length: int) -> bytes:
        with self._storage.open(name) as file:
            return file.read(length)
