"""Keep what a replay does a second time from the user's eyes and files."""

import builtins
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import torch

from whynan.launch.host import set_replaying


class Quiet:
    """While entered, the user's streams, loggers, warnings and newly opened files lead nowhere."""

    def __init__(self) -> None:
        self._saved: dict[str, Any] = {}
        self.entered = False

    def enter(self) -> None:
        self.entered = True
        self._saved = {
            "stdout": sys.stdout,
            "stderr": sys.stderr,
            "logging": logging.root.manager.disable,
            "filters": warnings.filters,
            "open": builtins.open,
            "save": torch.save,
            "stance": None,
            "held": _hush((sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)),
        }
        sys.stdout, sys.stderr = _Sink(sys.stdout), _Sink(sys.stderr)
        logging.disable(logging.CRITICAL)
        warnings.filters = [("ignore", None, Warning, None, 0)]
        builtins.open = _open_for_reading(builtins.open)
        torch.save = lambda *args, **kwargs: None
        if "tqdm.std" in sys.modules:  # which holds on to a stream's `write`, whatever becomes of the stream
            bar = sys.modules["tqdm.std"].tqdm
            self._saved["refresh"] = bar.refresh
            bar.refresh = lambda *args, **kwargs: None
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            self._saved["stance"] = torch.compiler.set_stance("force_eager")
            self._saved["stance"].__enter__()
        set_replaying(True)

    def leave(self) -> None:
        if not self.entered:
            return
        self.entered = False
        set_replaying(False)
        sys.stdout, sys.stderr = self._saved["stdout"], self._saved["stderr"]
        for stream in self._saved["held"]:
            vars(stream).pop("write", None)
        if "refresh" in self._saved:
            sys.modules["tqdm.std"].tqdm.refresh = self._saved["refresh"]
        logging.disable(self._saved["logging"])
        warnings.filters = self._saved["filters"]
        builtins.open = self._saved["open"]
        torch.save = self._saved["save"]
        if self._saved["stance"] is not None:
            self._saved["stance"].__exit__(None, None, None)


def _hush(streams: Iterable[Any]) -> list[Any]:
    """Silence streams for those who hold them already, as a progress bar does; `write_safely` still writes there."""
    found = [stream for stream in dict.fromkeys(streams) if isinstance(stream, io.TextIOWrapper)]
    found = [stream for stream in found if "write" not in vars(stream)]
    for stream in found:
        stream.write = len  # type: ignore[method-assign]
    return found


class _Sink(io.TextIOBase):
    """A text stream that swallows what it gets, and is otherwise like the stream whose place it takes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return bool(self._stream is not None and self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(getattr(self._stream, "encoding", "utf-8"))

    @property
    def buffer(self) -> io.BytesIO:
        return io.BytesIO()


def _open_for_reading(original: Any) -> Any:
    def open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if any(letter in mode for letter in "wax+"):
            return original(os.devnull, mode.replace("x", "w"), *args, **kwargs)
        return original(file, mode, *args, **kwargs)

    return open
