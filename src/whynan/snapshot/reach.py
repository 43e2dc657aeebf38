"""Which of a program's names a loop's body can reach: those it mentions, and those its own functions mention."""

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

from whynan.launch.rewrite import LoopSite
from whynan.snapshot.carried import find_loop

_DEPTH = 12


@dataclass
class Reach:
    """Names of the loop's own function (`local`) and of its module (`module`); None where the source is not known."""

    local: frozenset[str] | None
    module: frozenset[str]
    n_uses: int = 0

    def values(self, local: dict[str, Any], module: dict[str, Any]) -> dict[str, Any]:
        """Return what the names stand for now."""
        found = {name: module[name] for name in self.module if name in module}
        names: Iterable[str] = local if self.local is None else self.local
        found.update((name, local[name]) for name in names if name in local)
        return found


def find_reach(site: LoopSite, frame: FrameType, values: dict[str, Any], is_users: Callable[[str], bool]) -> Reach:
    """Follow the names of the loop's body through the user's functions, methods and classes that they lead to."""
    loop = find_loop(site)
    if loop is None:
        return Reach(None, frozenset(frame.f_globals))
    mentioned = {node.id for node in ast.walk(loop) if isinstance(node, ast.Name)}
    module: set[str] = set()
    todo: list[Any] = [values.get(name, frame.f_globals.get(name)) for name in mentioned]
    seen: set[int] = set()
    names = {name for name in mentioned if name in frame.f_globals}
    for _ in range(_DEPTH):
        codes = [code for value in todo for code in _codes(value, is_users)]
        todo = []
        module |= names
        names = {name for code in codes if id(code) not in seen for name in _names(code)} & set(frame.f_globals)
        seen |= {id(code) for code in codes}
        names -= module
        if not names:
            break
        todo = [frame.f_globals[name] for name in names]
    return Reach(frozenset(mentioned), frozenset(module))


def _codes(value: Any, is_users: Callable[[str], bool]) -> Iterable[CodeType]:
    """Return the code that calling a value may run, as far as it is the user's."""
    if isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, FunctionType):
        value = getattr(value, "__wrapped__", value)
        return [value.__code__] if isinstance(value, FunctionType) and is_users(value.__code__.co_filename) else []
    kind = value if isinstance(value, type) else type(value)
    found = []
    for base in kind.__mro__:
        for member in vars(base).values():
            function = getattr(member, "__func__", member)
            if isinstance(function, FunctionType) and is_users(function.__code__.co_filename):
                found.append(function.__code__)
    return found


def _names(code: CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found
