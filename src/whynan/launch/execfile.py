"""Runs a script, a module, a directory or a zip file as `__main__`, as `python` itself would, from start to end.

A compiled function is not replayed loop by loop, and a function that is sent to another process meets no whynan there:
both get the code that plain python would have given them.
"""

import builtins
import os
import runpy
import sys
import types
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

from whynan.errors import NoScriptError
from whynan.launch import RunOptions, host, imports
from whynan.launch.host import Unwind
from whynan.launch.imports import forget_shadowed, when_imported
from whynan.launch.plain import call_outermost, plain_code, strip_frames, without_whynan
from whynan.launch.rewrite import rewrite


def serve_readers() -> None:
    """Give plain code to the known readers of bytecode, once the program imports them."""
    when_imported("torch._dynamo.bytecode_transformation", _serve_dynamo)
    when_imported("torch._dynamo.trace_rules", _skip_whynan)
    when_imported("numba.core.bytecode", _serve_numba)
    for home in ("cloudpickle", "joblib.externals.cloudpickle", "ray.cloudpickle"):
        when_imported(f"{home}.cloudpickle", _serve_cloudpickle)


def _serve_dynamo(module: ModuleType) -> None:
    names = vars(module)
    read = names["_cached_cleaned_instructions"]
    names["_cached_cleaned_instructions"] = lambda code, *args, **options: read(plain_code(code), *args, **options)


def _skip_whynan(module: ModuleType) -> None:
    """Keep the compiler away from whynan's own functions, which a loop calls where its function was not compiled."""
    vars(module)["add"]("whynan")


def _serve_numba(module: ModuleType) -> None:
    names = vars(module)
    get_code_object = names["get_code_object"]

    def get_plain_code_object(obj: object) -> Any:
        code = get_code_object(obj)
        return plain_code(code) if isinstance(code, CodeType) else code

    names["get_code_object"] = get_plain_code_object


def _serve_cloudpickle(module: ModuleType) -> None:
    table = vars(module)["CloudPickler"]._dispatch_table
    reduce = table[CodeType]
    table[CodeType] = lambda code: reduce(plain_code(code))


def user_root(script: str | None) -> str:
    """Return the directory of the user's code: `sys.path[0]` of a plain run."""
    if script is None:
        return os.getcwd()
    if _is_container(script):
        return os.path.abspath(script)
    return os.path.dirname(os.path.realpath(script))


def check_script(script: str) -> None:
    """Raise `NoScriptError` where Python could not open `script`."""
    if _is_container(script):
        return
    try:
        with open(script, "rb"):
            pass
    except OSError as error:
        place = os.path.abspath(script)
        raise NoScriptError(
            f"can't open file {place!r}: [Errno {error.errno}] {error.strerror}; "
            "give the path of the training script, or -m and a module's name"
        ) from None


def execute(options: RunOptions) -> None:
    """Run the user's program; whatever it raises passes through."""
    sys.argv[:] = options.argv
    sys.orig_argv[:] = [sys.orig_argv[0], *(["-m"] if options.module else []), *options.argv]
    root = user_root(options.script)
    if options.script is not None and _is_container(options.script):
        # Python puts a directory or a zip file on the path even where it keeps the script's directory off it.
        sys.path[0 : 0 if sys.flags.safe_path else 1] = [root]
    elif not sys.flags.safe_path:
        sys.path[0] = root
    forget_shadowed(root)
    imports.install(root)
    serve_readers()
    main = _fresh_main()
    if options.module is not None:
        sys.argv[0] = "-m"
        call_outermost(runpy._run_module_as_main, options.module)  # type: ignore[attr-defined]
    elif options.script is not None and _is_container(options.script):
        call_outermost(runpy._run_module_as_main, "__main__", False)  # type: ignore[attr-defined]
    elif options.script is not None:
        code = _script_code(main, os.path.abspath(options.script))
        call_outermost(exec, code, main.__dict__)


def _fresh_main() -> ModuleType:
    """Replace `__main__` by a module as the interpreter makes it, names in the same order."""
    # The module that was `__main__` until now still runs; losing its last reference would clear its names.
    _kept.append(sys.modules["__main__"])
    main = types.ModuleType("__main__")
    names = main.__dict__
    names["__loader__"] = BuiltinImporter
    names["__annotations__"] = {}
    names["__builtins__"] = builtins
    sys.modules["__main__"] = main
    return main


_kept: list[object] = []


def _script_code(main: ModuleType, path: str) -> CodeType:
    """Compile the script plainly, for its errors and warnings, then rewritten; set `__main__`'s file and loader."""
    main.__dict__["__file__"] = path
    main.__dict__["__cached__"] = None
    if path.endswith(".pyc"):
        main.__dict__["__loader__"] = SourcelessFileLoader("__main__", path)
        return runpy._get_code_from_file("__main__", path)[0]  # type: ignore[attr-defined,no-any-return]
    main.__dict__["__loader__"] = SourceFileLoader("__main__", path)
    with open(path, "rb") as file:
        source = file.read()
    plain = compile(source, path, "exec", dont_inherit=True)
    try:
        rewritten = rewrite(source, path)
    except Exception as error:
        host.tell("preparing the script's loops failed", error)
        return plain
    host.register(path, rewritten.sites, rewritten.code, plain)
    return rewritten.code


def _is_container(script: str) -> bool:
    """Whether Python would look for a `__main__` module in this path: a directory, or a zip file."""
    return any(_accepts(hook, script) for hook in sys.path_hooks)


def _accepts(hook: object, script: str) -> bool:
    try:
        hook(script)  # type: ignore[operator]
    except ImportError:
        return False
    return True


STOPPED = 3
"""Exit status of a run that was stopped at an incident."""

_callbacks: list[Callable[[], object]] = []


def before_exit(callback: Callable[[], object]) -> None:
    """Call `callback` where the program ends the process by `os._exit`, which runs no handlers of its own."""
    _callbacks.append(callback)


def watch_exit() -> None:
    """Make `os._exit` run the `before_exit` callbacks; in this process, not in its forks."""
    pid, leave = os.getpid(), os._exit

    def _exit(status: int) -> NoReturn:
        if os.getpid() == pid:
            host.exiting()
            _run_callbacks()
        leave(status)

    os._exit = _exit


def _run_callbacks() -> None:
    while _callbacks:
        try:
            _callbacks.pop(0)()
        except Exception as error:
            host.tell("writing the report failed", error)


def end(error: BaseException | None, status: int | None) -> None:
    """End the program as `error` would end a plain run, with exit status `status` where one is given.

    Returns where the program simply ended; the interpreter then goes on to threads and `atexit`.
    """
    if isinstance(error, Unwind):
        sys.exit(STOPPED if status is None else status)
    if error is None or isinstance(error, SystemExit):
        if status is not None:
            sys.exit(status)
        if error is not None:
            raise error
        return
    _show_as_plain(error)
    if status is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(status)
    raise error


def user_error(error: BaseException) -> BaseException:
    """Return `error` without the frames that lie between the interpreter and the user's program."""
    strip_frames(error)
    return error


def _show_as_plain(error: BaseException) -> None:
    """Let the hook that the program has set see the traceback that a plain run would show it."""
    hook = sys.excepthook
    tb = without_whynan(error.__traceback__)

    def show(kind: type[BaseException], shown: BaseException, raised_at: TracebackType | None) -> Any:
        if shown is error:
            shown.__traceback__ = sys.last_traceback = raised_at = tb
        return hook(kind, shown, raised_at)

    sys.excepthook = show
