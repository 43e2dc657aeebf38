"""Functions of the program that travel to other processes by value, as cloudpickle sends them.

They travel as plain Python would have compiled them: the names that rewritten loops use exist in this process alone.
Where the other process trains, in a worker of Ray Train, the watch travels along and puts the rewritten loops back.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from whynan.launch import host, imports
from whynan.launch.host import Unwind
from whynan.launch.isolation import own_imports
from whynan.launch.options import RunOptions
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
