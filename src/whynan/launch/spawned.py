"""Processes that the program starts by `multiprocessing` to train in are watched like the program itself.

`torch.multiprocessing.spawn` and a `Process` whose target is a function of the user's own files; workers of data
loaders and of pools are left alone. With the start method `spawn` a child reads what its parent sends before it imports
the program's main module: an entry of ours among it begins the watch there. A forked child has its parent's already.
"""

import os
import runpy
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from whynan.launch import host, imports
from whynan.launch.host import Unwind
from whynan.launch.isolation import own_imports
from whynan.launch.options import RunOptions

STOPPED = 3
_now = threading.local()
"""`is_starting`: this thread is starting a process that is to be watched."""


class Spawned:
    """The processes that one watched program starts."""

    def __init__(self, options: RunOptions, session: Any) -> None:
        self.options = replace(options, status=False, tensorboard=None)
        self.session = session
        self.pid = os.getpid()

    def install(self) -> None:
        """Take part in the start of processes from now on."""
        import multiprocessing.process
        import multiprocessing.spawn

        process: Any = multiprocessing.process.BaseProcess
        start, run, prepare = process.start, process.run, multiprocessing.spawn.get_preparation_data
        spawned = self

        def started(child: Any) -> None:
            if spawned.is_forked() or not _is_training(child):
                start(child)
                return
            spawned.session.has_children = True
            _now.is_starting = True
            try:
                start(child)
            finally:
                _now.is_starting = False

        def prepared(name: str) -> Any:
            data = prepare(name)
            if getattr(_now, "is_starting", False):
                data["whynan"] = _Beginning(spawned.options)
            return data

        def ran(child: Any) -> None:
            if spawned.is_forked() and getattr(_now, "is_starting", False):
                _now.is_starting = False
                _run(run, child, spawned.session)
            else:
                run(child)

        process.start, process.run = started, ran
        multiprocessing.spawn.get_preparation_data = prepared

    def is_forked(self) -> bool:
        return os.getpid() != self.pid


def is_adopted() -> bool:
    """Whether this process, just forked, is one to be watched."""
    return bool(getattr(_now, "is_starting", False))


def _is_training(child: Any) -> bool:
    if "torch" not in sys.modules:
        return False
    target = getattr(child, "_target", None)
    if getattr(target, "__module__", None) == "torch.multiprocessing.spawn":
        return True
    code = getattr(target, "__code__", None)
    return code is not None and host.is_user_file(code.co_filename)


class _Beginning:
    """Begins the watch where it is unpickled."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options

    def __reduce__(self) -> tuple[Callable[[RunOptions], None], tuple[RunOptions]]:
        return begin, (self.options,)


def begin(options: RunOptions) -> None:
    """Watch this process; called in a child before it imports the program's main module."""
    import multiprocessing.process

    try:
        with own_imports():
            from whynan import pipeline

            host.install()
            session = pipeline.start(options)
        session.become_child()
        imports.install(str(options.root))
        _rewrite_main()
        process: Any = multiprocessing.process.BaseProcess
        run = process.run
        process.run = lambda child: _run(run, child, session)
    except Exception as error:
        host.tell("watching a process that the program started", error)


def _run(run: Callable[[Any], None], child: Any, session: Any) -> None:
    """Run what the process was started for; write the report before it ends."""
    error: BaseException | None = None
    try:
        run(child)
    except BaseException as raised:
        error = raised
    status = None
    try:
        with own_imports():
            status = session.finish(error)
    except Exception as failure:
        host.tell("writing the report failed", failure)
    if status is not None or isinstance(error, Unwind):
        sys.exit(STOPPED if status is None else status)
    if error is not None:
        raise error


def _rewrite_main() -> None:
    """Let the program's main module, which the child runs as a file, have its loops rewritten."""
    import multiprocessing.spawn

    fix_up = multiprocessing.spawn._fixup_main_from_path  # type: ignore[attr-defined]

    def fixed_up(path: str) -> None:
        read = runpy._get_code_from_file  # type: ignore[attr-defined]

        def read_rewritten(*args: Any) -> Any:
            found = read(*args)
            plain = found[0] if isinstance(found, tuple) else found
            try:
                code = imports.rewritten_code(os.path.abspath(args[-1]), plain)
            except Exception as error:
                host.tell("preparing the script's loops failed", error)
                return found
            return (code, *found[1:]) if isinstance(found, tuple) else code

        runpy._get_code_from_file = read_rewritten  # type: ignore[attr-defined]
        try:
            fix_up(path)
        finally:
            runpy._get_code_from_file = read  # type: ignore[attr-defined]

    multiprocessing.spawn._fixup_main_from_path = fixed_up  # type: ignore[attr-defined]


def report_of_children(out: Path, since: float) -> Any:
    """Return the report that a child has written since then (seconds since the epoch); None where there is none."""
    import json

    saved = out / "report.json"
    try:
        return json.loads(saved.read_text()) if saved.stat().st_mtime >= since - 1.0 else None
    except (OSError, ValueError):
        return None
