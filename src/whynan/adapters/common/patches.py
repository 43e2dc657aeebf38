"""What is replaced for a while: attributes of a library, printing streams, one line of the user's functions."""

import ast
import gc
import io
import linecache
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

from whynan.launch.host import user_codes


class Patches:
    """Replaces attributes and remembers what they were."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, bool]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Set `owner.name` to what `make` makes of its present value."""
        is_own = name in vars(owner)
        original = vars(owner)[name] if is_own else getattr(owner, name)
        setattr(owner, name, make(original))
        self._replaced.append((owner, name, original, is_own))

    def undo(self) -> None:
        while self._replaced:
            owner, name, original, is_own = self._replaced.pop()
            if is_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what runs inside from the user's streams, and its warnings too."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    filters = warnings.filters
    warnings.filters = [("ignore", None, Warning, None, 0)]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
        warnings.filters = filters


Codes = dict[tuple[str, int], CodeType]


def codes_in(tree: ast.AST, filename: str) -> Codes:
    """Return the code objects of a module by qualified name and first line."""
    module = compile(tree, filename, "exec", dont_inherit=True)  # type: ignore[call-overload]
    found: Codes = {}
    todo: list[CodeType] = [module]
    while todo:
        code = todo.pop()
        found[code.co_qualname, code.co_firstlineno] = code
        todo += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return found


@contextmanager
def swapped(sources: dict[str, str], change: Callable[[ast.AST], ast.AST] | None = None) -> Iterator[int]:
    """Give the user's functions the code of `sources` (files by name); `change` is made to every file's tree.

    Yields how many functions run other code than before. Functions are found where they live, so that those that a
    library holds (a loss, a layer's `call`) change too; they keep their identity, defaults and closures.
    """
    codes: dict[str, Codes] = {}
    for filename in list(user_codes) if change is not None else list(sources):
        text = sources.get(filename) or "".join(linecache.getlines(filename))
        try:
            tree: ast.AST = ast.parse(text)
            codes[filename] = codes_in(
                ast.fix_missing_locations(change(tree)) if change is not None else tree, filename
            )
        except (SyntaxError, ValueError, RecursionError):
            continue
    changed = []
    for function in [f for f in gc.get_objects() if type(f) is FunctionType and f.__code__.co_filename in codes]:
        old = function.__code__
        new = codes[old.co_filename].get((old.co_qualname, old.co_firstlineno))
        if new is not None and new.co_freevars == old.co_freevars:
            changed.append((function, old))
            function.__code__ = new
    try:
        yield len(changed)
    finally:
        for function, old in changed:
            function.__code__ = old
