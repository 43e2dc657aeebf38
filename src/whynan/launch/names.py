"""Which names a piece of source binds, without running it."""

import ast
from collections.abc import Iterable, Iterator

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_Comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def own_nodes(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes that run together with `nodes`: all but the bodies of the functions defined there."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, _Function):
            todo.extend([*node.decorator_list, node.args])
        elif isinstance(node, ast.Lambda):
            todo.append(node.args)
        elif isinstance(node, ast.ClassDef):
            todo.extend([*node.decorator_list, *node.bases, *node.keywords])
        else:
            todo.extend(ast.iter_child_nodes(node))


def bound_names(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Return the names that running `nodes` binds or deletes in the scope where they stand.

    A function defined there counts with the names that it declares global or nonlocal: calling it binds them.
    """
    names: set[str] = set()
    of_comprehensions: set[int] = set()
    found = list(own_nodes(nodes))
    for node in found:
        if isinstance(node, _Comprehension):
            targets = (inner for generator in node.generators for inner in ast.walk(generator.target))
            of_comprehensions.update(map(id, targets))
        elif isinstance(node, (*_Function, ast.ClassDef)):
            inner_nodes = (inner for statement in node.body for inner in ast.walk(statement))
            for inner in inner_nodes:
                if isinstance(inner, ast.Global | ast.Nonlocal):
                    names.update(inner.names)
    for node in found:
        if id(node) not in of_comprehensions:
            names.update(_names_bound_by(node))
    return frozenset(names)


def binds_anywhere(tree: ast.AST, name: str) -> bool:
    """Whether any scope of `tree` binds `name`, parameters included."""
    return any(
        name in _names_bound_by(node) or (isinstance(node, ast.arg) and node.arg == name) for node in ast.walk(tree)
    )


def header_names(target: ast.expr) -> frozenset[str]:
    """Return the names that a `for` header binds: those of `i, (a, *rest)`; none for `self.x` or `d[k]`."""
    return frozenset(name for node in ast.walk(target) for name in _names_bound_by(node))


def _names_bound_by(node: ast.AST) -> list[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return [name]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return names
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name.partition(".")[0] for alias in aliases]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.MatchMapping(rest=str(name)):
            return [name]
        case _:
            return []
