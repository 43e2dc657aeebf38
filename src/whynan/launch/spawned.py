"""What goes to other processes is watched there too: processes started by `multiprocessing`, functions sent by value.

They travel as plain Python would have compiled them: the names that rewritten loops use exist in this process alone.
Where the other process trains, in a worker of Ray Train, the watch travels along and puts the rewritten loops back.

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
from types import CodeType, FunctionType
from typing import Any

from whynan.launch import RunOptions, host, imports
from whynan.launch.host import Unwind
from whynan.launch.imports import own_imports
from whynan.launch.plain import plain_code, rewritten_code

_PICKLERS = (
    "cloudpickle.cloudpickle",
    "ray.cloudpickle.cloudpickle",
    "joblib.externals.cloudpickle.cloudpickle",
    "pyspark.cloudpickle.cloudpickle",
)


def install() -> None:
    """Let each copy of cloudpickle send plain code, as soon as the program imports it."""
    for name in _PICKLERS:
        imports.when_imported(name, _send_plain)


def _send_plain(module: Any) -> None:
    table = module.Pickler._dispatch_table
    reduce_code = table[CodeType]
    table[CodeType] = lambda code: reduce_code(plain_code(code))


def watch_ray(options: RunOptions, session: Any) -> None:
    """Let the workers of Ray Train be watched."""

    def patch(module: Any) -> None:
        construct = module.construct_train_func

        def constructed(train: Any, *args: Any, **kwargs: Any) -> Any:
            run = construct(train, *args, **kwargs)
            if not _is_ours(train):
                return run
            session.has_children = True
            return Traveller(replace(options, status=False, tensorboard=None), run, train)

        module.construct_train_func = constructed

    imports.when_imported("ray.train.v2.api.data_parallel_trainer", patch)


def _is_ours(train: Any) -> bool:
    return isinstance(train, FunctionType) and host.is_user_file(train.__code__.co_filename)


class Traveller:
    """A function that trains in another process, and the watch that begins with it there."""

    def __init__(self, options: RunOptions, run: Callable[[], Any], train: FunctionType) -> None:
        self.options = options
        self.run = run
        self.train = train
        self.__name__ = train.__name__
        self.root = Path.cwd()

    def __call__(self) -> Any:
        session = self._begin()
        error: BaseException | None = None
        try:
            return self.run()
        except BaseException as raised:
            error = raised
            if not isinstance(raised, Unwind):
                raise
        finally:
            _finish(session, error)
        # Ray reports an exception of a worker's; its own way out of a process it would take for a crash.
        raise RuntimeError(f"whynan has stopped this run at a non-finite step: see {self.options.out}/report.html")

    def _begin(self) -> Any:
        try:
            with own_imports():
                from whynan import pipeline
                from whynan.adapters.common import positions

                host.install()
                session = pipeline.start(self.options)
            session.become_child()
            session.root = self.root  # a worker has a working directory of its own
            positions.roots.append(self.root)
            imports.install(str(self.options.root))
            _put_loops_back(self.train)
            return session
        except Exception as error:
            host.tell("watching a worker", error)
            return None


def _finish(session: Any, error: BaseException | None) -> None:
    if session is None:
        return
    try:
        with own_imports():
            session.finish(error)
    except Exception as failure:
        host.tell("writing the report failed", failure)


def _put_loops_back(train: FunctionType) -> None:
    """Give the function, and those of the program's that it can reach, their rewritten code again."""
    files: set[str] = set()
    todo: list[Any] = [train]
    seen: set[int] = set()
    while todo:
        found = todo.pop()
        if isinstance(found, type):
            todo += [value for value in vars(found).values() if isinstance(value, FunctionType)]
            continue
        if not isinstance(found, FunctionType) or id(found) in seen:
            continue
        seen.add(id(found))
        path = found.__code__.co_filename
        if path not in files and imports.is_users_path(path) and Path(path).is_file():
            with open(path, "rb") as file:
                plain = compile(file.read(), path, "exec", dont_inherit=True)
            imports.rewritten_code(path, plain)
        files.add(path)
        found.__code__ = rewritten_code(found.__code__)
        todo += [value for value in found.__globals__.values() if _is_of_main(value)]
        todo += [cell.cell_contents for cell in found.__closure__ or () if not _is_empty(cell)]


def _is_of_main(value: Any) -> bool:
    """Whether a value travelled by value: it says that it is of the main module, and this process has another one."""
    return isinstance(value, (FunctionType, type)) and value.__module__ == "__main__"


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


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
