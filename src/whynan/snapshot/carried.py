"""Which names a loop's body carries from one iteration to the next and which it can reach, told from the source.

A name that the body always binds before it reads it (`loss = ...`) needs no value from before; holding on to it would
keep the previous iteration's tensors alive.
"""

import ast
import linecache
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

from whynan.launch.rewrite import LoopSite


@cache
def carried_names(site: LoopSite) -> frozenset[str]:
    """Return the names that the body binds and that may be read before it does; the loop's own targets if rebound."""
    loop = find_loop(site)
    if loop is None:
        return site.assigned | site.targets
    fresh = _surely_bound_first(loop.body)
    targets = site.targets & site.assigned
    return frozenset((site.assigned - fresh) | targets)


@cache
def _tree(filename: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return None


def find_loop(site: LoopSite) -> ast.For | ast.While | ast.With | None:
    """Return the loop's (or the watched block's) node in its file's source; None where that is not what was run."""
    tree = _tree(site.filename)
    for node in ast.walk(tree) if tree else ():
        if (
            isinstance(node, (ast.For, ast.While, ast.With))
            and node.lineno == site.header_line
            and node.body[0].lineno == site.body_first_line
        ):
            return node
    return None


@cache
def inner_breaks(site: LoopSite) -> frozenset[int]:
    """Return the lines of the `break`s that leave a loop inside of the body, not the loop itself."""
    loop = find_loop(site)
    body = loop.body if loop is not None else []
    loops = [node for part in body for node in ast.walk(part) if isinstance(node, (ast.For, ast.While))]
    inside = (node for inner in loops for part in inner.body for node in ast.walk(part))
    return frozenset(node.lineno for node in inside if isinstance(node, ast.Break))


@cache
def target_names(site: LoopSite) -> tuple[str, ...]:
    """Return the names that a `for` header binds, in its own order."""
    loop = find_loop(site)
    if not isinstance(loop, ast.For):
        return tuple(sorted(site.targets))
    names = [node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)]
    places = {node.id: (node.lineno, node.col_offset) for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    return tuple(sorted(dict.fromkeys(names), key=lambda name: places[name]))


def _surely_bound_first(body: Iterable[ast.stmt]) -> set[str]:
    """Return names that plain assignments at the top of the body bind before anything in it has read them."""
    bound: set[str] = set()
    touched: set[str] = set()
    for statement in body:
        if isinstance(statement, ast.Assign) and all(_is_plain(target) for target in statement.targets):
            touched |= _names(statement.value)
            for target in statement.targets:
                bound |= _names(target) - touched
        elif isinstance(statement, ast.With):
            for item in statement.items:
                touched |= _names(item)
            bound |= _surely_bound_first(statement.body) - touched
            touched |= _names(statement) - bound
        else:
            touched |= _names(statement)
    return bound


def _is_plain(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) or (
        isinstance(target, (ast.Tuple, ast.List)) and all(_is_plain(item) for item in target.elts)
    )


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


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
        names = {name for code in codes if id(code) not in seen for name in _names_in(code)} & set(frame.f_globals)
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


def _names_in(code: CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names_in(constant)
    return found
