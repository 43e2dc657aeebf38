"""One watched session inside a program that runs by itself: started by the first watch, shared by all of them."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import whynan
from whynan.api.report import Report
from whynan.launch import host as launch_host
from whynan.launch.imports import project_of
from whynan.launch.options import RunOptions
from whynan.launch.rewrite import LoopSite, Rewritten, rewrite
from whynan.pipeline import Session
from whynan.records import Incident

Event = dict[str, Any]
_OWN = str(Path(whynan.__file__).parent)


class Engine:
    """Holds the session and the adapter. `on_event` is called with a dict for each incident and intervention."""

    def __init__(self, options: RunOptions, on_event: Callable[[Event], None] | None) -> None:
        self.options = options
        self.on_event = on_event
        self.session = Session(options)
        self.root = Path(options.root)
        self._record = self.session.record
        self.session.record = self._recorded  # type: ignore[method-assign]
        launch_host.install()
        self.session.attach_torch(sys.modules["torch"])
        adapter: Any = self.session.adapter
        self.adapter = adapter
        self.host = adapter.host

    def _recorded(self, incident: Incident) -> None:
        self.session.incidents.append(incident)
        if self.options.out != Path() and self.options.policy != "stop":
            self.report().save(self.options.out)
        if self.on_event is not None:
            self.on_event({"event": "incident", "step": incident.symptom.step, **incident.to_json()})

    def report(self) -> Report:
        """Return what is known now."""
        return Report(self.session.recording(None), (self.root, Path.cwd()))

    def is_running(self) -> bool:
        return not self.host.is_over

    @staticmethod
    def know(filename: str) -> None:
        """Take a file, and what the program has imported from beside it, for the user's own code."""
        root = project_of(str(Path(filename).resolve().parent)) if Path(filename).exists() else None
        launch_host.user_codes.setdefault(filename, [])
        if root is None:
            return
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file.startswith(root) and not _is_installed(file):
                launch_host.user_codes.setdefault(file, [])

    def register(self, filename: str, rewritten: Rewritten) -> None:
        """Make rewritten loops of a file runnable beside those that are known."""
        known = launch_host.user_codes.get(filename, [])
        launch_host.register(filename, [*known, *rewritten.sites])

    def add_site(self, site: LoopSite) -> Any:
        """Make a block known that is entered by hand; return what counts its passes."""
        launch_host.user_codes.setdefault(site.filename, []).append(site)
        return self.host.new_site(site)

    def close(self) -> None:
        """Stop watching, and undo everything that watching has set up."""
        if self.session.adapter is not None:
            self.adapter.detach()
            if self.options.out != Path():
                self.report().save(self.options.out)
            self.session.adapter = None


def rewritten_code(engine: Engine, code: CodeType) -> CodeType | None:
    """Return the code of a function whose loops can be run again, iteration by iteration; None where that cannot be."""
    try:
        rewritten = rewrite(Path(code.co_filename).read_bytes(), code.co_filename)
    except (OSError, SyntaxError, ValueError):
        return None
    found = _code_like(rewritten.code, code)
    if found is None or found.co_freevars != code.co_freevars:
        return None
    engine.register(code.co_filename, rewritten)
    return found


def _code_like(code: CodeType, wanted: CodeType) -> CodeType | None:
    """Return the code object among the constants that stands for the same function."""
    for constant in code.co_consts:
        if inspect.iscode(constant):
            if constant.co_qualname == wanted.co_qualname and constant.co_firstlineno == wanted.co_firstlineno:
                return constant
            found = _code_like(constant, wanted)
            if found is not None:
                return found
    return None


def _is_installed(file: str) -> bool:
    if file.startswith(_OWN):
        return True
    return "site-packages" in file or "dist-packages" in file or f"{sys.prefix}/lib/" in file
