"""A large JSON object read element by element: memory holds one element of its arrays and a piece of the text.

The elements are decoded by the C scanner of Python's own json module; only the walk over the outermost object is ours.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

PIECE = 1 << 20
"""Bytes that are read at once."""
_SPACE = re.compile(r"[ \t\r\n]*")
_END = re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
_NUMBER = re.compile(r"[0-9.eE+-]*")
_NEAR = 64
"""An error this close to the end of what was read may be an element that is cut in two."""


class JsonError(Exception):
    """Malformed JSON: the line and column, both from 1, and what is wrong there."""

    def __init__(self, what: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {what}")
        self.line = line


Event = tuple[str, str, Any]
BEGIN, ELEMENT, END, VALUE = "begin", "element", "end", "value"


class JsonStream:
    """Yields (BEGIN, key, None), (ELEMENT, key, element) ... (END, key, None) for each array of the outermost object,
    and (VALUE, key, value) for all else in it."""

    def __init__(self, file: IO[bytes], on_bytes: Callable[[int], None] | None = None) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("strict").decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._at_end = False
        self._line = 1
        self._column = 1

    def __iter__(self) -> Iterator[Event]:
        if self._peek() != "{":
            raise self._error("expected an object")
        self._at += 1
        if self._peek() == "}":
            self._at += 1
            self._finish()
            return
        while True:
            if self._peek() != '"':
                raise self._error("expected a key in double quotes")
            key = self._value()
            if self._peek() != ":":
                raise self._error(f"expected ':' after the key {key!r}")
            self._at += 1
            if self._peek() == "[":
                self._at += 1
                yield BEGIN, key, None
                for element in self._elements():
                    yield ELEMENT, key, element
                yield END, key, None
            else:
                yield VALUE, key, self._value()
            sign = self._peek()
            self._at += 1
            if sign == "}":
                self._finish()
                return
            if sign != ",":
                self._at -= 1
                raise self._error("expected ',' or '}'")

    def _finish(self) -> None:
        if self._peek():
            raise self._error("more text after the end of the object")

    def _elements(self) -> Iterator[Any]:
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            self._peek()
            yield self._value()
            found = _END.match(self._text, self._at)
            if found is None or (found.end() == len(self._text) and not self._at_end):
                sign = self._peek()
                if sign not in (",", "]"):
                    raise self._error("expected ',' or ']'")
                self._at += 1
            else:
                sign = found[1]
                self._at = found.end()
            if sign == "]":
                return

    def _peek(self) -> str:
        """Skip white space and return the next character, "" at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                # An element may be cut in two by the end of the piece; an error far before it is an error.
                is_cut = error.pos >= len(self._text) - _NEAR or error.msg.startswith("Unterminated string")
                if is_cut and not self._at_end:
                    self._more()
                    continue
                raise self._error(error.msg, error.pos) from None
            except RecursionError:
                raise self._error("nested too deeply") from None
            except ValueError as error:  # an integer of thousands of digits
                raise self._error(str(error).partition(";")[0]) from None
            # A number at the very end of the piece may go on in the next one.
            if self._text[end - 1] not in '}]"' and not self._at_end and self._is_number_to_the_end(end):
                self._more()
                continue
            self._at = end
            return value

    def _is_number_to_the_end(self, at: int) -> bool:
        found = _NUMBER.match(self._text, at)
        return found is not None and found.end() == len(self._text)

    def _more(self) -> bool:
        if self._at_end:
            return False
        # Elements longer than a piece double what is read, so that one is not scanned over and over.
        data = self._file.read(max(PIECE, 2 * (len(self._text) - self._at)))
        try:
            text = self._decode(data, not data)
        except UnicodeDecodeError as error:
            before = self._text[self._at :] + data[: error.start].decode("utf-8", "ignore")
            self._forget()
            line = self._line + before.count("\n")
            raise JsonError(f"byte 0x{data[error.start]:02x} is not UTF-8", line, 1) from None
        self._at_end = not data
        if self._on_bytes is not None and data:
            self._on_bytes(len(data))
        self._forget()
        self._text += text
        return bool(data)

    def _forget(self) -> None:
        gone = self._text[: self._at]
        n_lines = gone.count("\n")
        self._line += n_lines
        self._column = len(gone) - gone.rfind("\n") if n_lines else self._column + len(gone)
        self._text = self._text[self._at :]
        self._at = 0

    def _error(self, what: str, at: int | None = None) -> JsonError:
        self._at = self._at if at is None else at
        self._forget()
        if not self._text and self._at_end:
            what = f"{what}, but the file ends here"
        return JsonError(what[0].lower() + what[1:], self._line, self._column)
