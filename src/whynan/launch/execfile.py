"""Runs a script, a module, a directory or a zip file as `__main__`, as `python` itself would."""

import builtins
import os
import runpy
import sys
import types
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType

from whynan.errors import NoScriptError
from whynan.launch import host, imports
from whynan.launch.bytecode import serve_readers
from whynan.launch.isolation import forget_shadowed
from whynan.launch.options import RunOptions
from whynan.launch.rewrite import rewrite
from whynan.launch.traceback import call_outermost


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
