"""Keeps whynan's imports and the user's apart where files beside the script have the name of an installed module."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

# What a plain interpreter has imported before it comes to the script; a file of that name beside it never counts.
_AT_START = frozenset(
    """
    __main__ _abc _codecs _collections_abc _frozen_importlib _frozen_importlib_external _imp _io _signal _sitebuiltins
    _stat _thread _warnings _weakref abc builtins codecs encodings genericpath importlib io marshal nt ntpath os posix
    posixpath site sitecustomize stat sys time usercustomize whynan winreg zipimport
    """.split()  # noqa: SIM905
)
_OUR_TOOLS = frozenset(("click", "rich", "jinja2", "markupsafe", "pygments", "markdown_it", "mdurl"))

_kept: list[ModuleType] = []
_shadowing: dict[str, frozenset[str]] = {}


def forget_shadowed(root: str) -> None:
    """Forget imported modules that plain python would have imported from the directory `root` instead.

    whynan's imports came first: without this a `types.py` or `random.py` beside the script would not be found.
    """
    shadowing = _names_in(root) - _AT_START - set(sys.builtin_module_names)
    _shadowing[root] = shadowing & (sys.stdlib_module_names | _OUR_TOOLS)
    # The code that imported them still uses them.
    _kept.extend(_take_modules(shadowing).values())


@contextmanager
def own_imports() -> Iterator[None]:
    """Let imports find what is installed, whatever the user's files are called; afterwards all is as it was."""
    names = frozenset().union(*_shadowing.values())
    if not names:
        yield
        return
    path, modules = sys.path[:], _take_modules(names)
    sys.path[:] = [place for place in path if os.path.realpath(place) not in _shadowing]
    try:
        yield
    finally:
        _kept.extend(_take_modules(names).values())
        sys.modules.update(modules)
        sys.path[:] = path


def _take_modules(names: frozenset[str]) -> dict[str, ModuleType]:
    taken = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    for name in taken:
        del sys.modules[name]
    return taken


def _names_in(root: str) -> frozenset[str]:
    """Return the names of the modules and packages in a directory."""
    try:
        entries = os.listdir(root)
    except OSError:
        return frozenset()
    modules = {entry.removesuffix(".py") for entry in entries if entry.endswith(".py")}
    packages = {entry for entry in entries if os.path.isfile(os.path.join(root, entry, "__init__.py"))}
    return frozenset(modules | packages)
