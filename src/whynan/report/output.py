"""Writing to a stream that may not be able to show or to take what we write."""

import io
import os
from typing import IO

_ASCII = {"…": "...", "→": "->", "≥": ">=", "≤": "<="}


def write_safely(text: str, file: IO[str]) -> None:
    """Write text to a stream in whatever encoding it has; a reader that went away is no error."""
    encoded = encodable(text, getattr(file, "encoding", None))
    try:
        if isinstance(file, io.TextIOWrapper):
            type(file).write(file, encoded)  # a stream's own may be put aside while a step is replayed
        else:
            file.write(encoded)
        file.flush()
    except BrokenPipeError:
        pass
    except (OSError, ValueError):
        # A full disk behind a redirection or a closed stream: the report stands in its files all the same.
        pass


def encodable(text: str, encoding: str | None) -> str:
    """Return text that the encoding can hold: our own signs in ASCII, the user's characters as escapes."""
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        plain = "".join(_ASCII.get(char, char) for char in text)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def is_interactive(file: IO[str]) -> bool:
    """Return whether a human watches the stream on a terminal that can move its cursor."""
    try:
        return file.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False
