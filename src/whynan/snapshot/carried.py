"""Which names a loop's body carries from one iteration to the next, told from its source.

A name that the body always binds before it reads it (`loss = ...`) needs no value from before; holding on to it would
keep the previous iteration's tensors alive.
"""

import ast
import linecache
from collections.abc import Iterable
from functools import cache

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
