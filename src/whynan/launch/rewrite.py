"""Rewrites the loops of a piece of source, and tells which names it binds, without running it.

Positions are copied from the user's own nodes, so that tracebacks, carets and line numbers stay what they were.
"""

import ast
import itertools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import TypeVar

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def own_nodes(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes that run together with `nodes`: all but the bodies of the functions defined there."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, _FUNCTIONS):
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
        elif isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
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


_N = TypeVar("_N", bound=ast.AST)
_Loop = ast.For | ast.While
_Function = ast.FunctionDef | ast.AsyncFunctionDef

_indices = itertools.count()


@dataclass(frozen=True)
class LoopSite:
    """One rewritten loop. Lines are the file's, `function` is the code object's `co_qualname`.

    `assigned` are the names that the body binds or deletes, `targets` those that the `for` header binds.
    `function_line` is the code object's `co_firstlineno`, 0 for a module.
    """

    index: int
    filename: str
    function: str
    header_line: int
    body_first_line: int
    body_last_line: int
    assigned: frozenset[str]
    targets: frozenset[str]
    function_line: int = 0


@dataclass(frozen=True)
class Rewritten:
    """A module's code and the loops in it. Without sites the code may be the plain one."""

    code: CodeType
    sites: tuple[LoopSite, ...]


def rewrite(source: bytes, filename: str) -> Rewritten:
    """Compile `source` with its loops rewritten. Raises what `compile` raises for a source that isn't a program.

    Python allows 20 nested blocks and a rewritten loop takes three instead of one: where that is too many, inner loops
    are left as they are, down to all of them.
    """
    with _silent_warnings():
        for depth in itertools.chain([None], range(6, -1, -1)):
            rewriter = _Rewriter(filename, depth)
            # A new tree each time: a rewriter changes the tree that it gets.
            tree = ast.parse(source, filename)
            try:
                tree = ast.fix_missing_locations(rewriter.rewrite(tree))
                return Rewritten(compile(tree, filename, "exec", dont_inherit=True), tuple(rewriter.sites))
            except (SyntaxError, RecursionError):
                continue
        return Rewritten(compile(source, filename, "exec", dont_inherit=True), ())


@contextmanager
def _silent_warnings() -> Iterator[None]:
    """Ignore the compiler's warnings, which the plain compilation has given already.

    Not `catch_warnings`: that would make every warning that was shown once be shown again.
    """
    filters = warnings.filters
    warnings.filters = [("ignore", None, Warning, None, 0)]
    try:
        yield
    finally:
        warnings.filters = filters


@dataclass
class _Scope:
    """A module, function or class body being rewritten. `loops`: of each loop around here, whether it is rewritten."""

    kind: str
    qualname: str
    line: int
    loops: list[bool]

    def child_name(self, name: str) -> str:
        if self.kind == "module":
            return name
        return f"{self.qualname}.<locals>.{name}" if self.kind == "function" else f"{self.qualname}.{name}"


class _Rewriter(ast.NodeTransformer):
    def __init__(self, filename: str, depth: int | None) -> None:
        self.filename = filename
        self.depth = depth
        self.sites: list[LoopSite] = []
        self.scopes = [_Scope("module", "<module>", 0, [])]
        self.own_next = False

    def rewrite(self, tree: ast.Module) -> ast.Module:
        # A program with a `next` of its own means that one.
        self.own_next = binds_anywhere(tree, "next")
        return self.visit(tree)  # type: ignore[no-any-return]

    @property
    def scope(self) -> _Scope:
        return self.scopes[-1]

    # Scopes -----------------------------------------------------------------------------------------------------

    def _visit_in(self, scope: _Scope, nodes: list[_N]) -> list[_N]:
        self.scopes.append(scope)
        try:
            return self._visit_all(nodes)
        finally:
            self.scopes.pop()

    def _visit_all(self, nodes: list[_N]) -> list[_N]:
        visited: list[_N] = []
        for node in nodes:
            new = self.visit(node)
            if isinstance(new, list):
                visited.extend(new)
            elif new is not None:
                visited.append(new)
        return visited

    def _function(self, node: _Function) -> ast.AST:
        node.decorator_list = self._visit_all(node.decorator_list)
        node.args = self.visit(node.args)
        line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        scope = _Scope("function", self.scope.child_name(node.name), line, [])
        node.body = self._visit_in(scope, node.body)
        return node

    visit_FunctionDef = _function  # noqa: N815
    visit_AsyncFunctionDef = _function  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.args = self.visit(node.args)
        scope = _Scope("function", self.scope.child_name("<lambda>"), node.lineno, [])
        node.body = self._visit_in(scope, [node.body])[0]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = self._visit_all(node.decorator_list)
        node.bases = self._visit_all(node.bases)
        node.keywords = self._visit_all(node.keywords)
        # The body's own statements are left alone: a metaclass may answer for any name that is looked up there.
        node.body = self._visit_in(_Scope("class", self.scope.child_name(node.name), node.lineno, []), node.body)
        return node

    # Loops ------------------------------------------------------------------------------------------------------

    def visit_For(self, node: ast.For) -> ast.AST:
        node.target, node.iter = self.visit(node.target), self.visit(node.iter)
        return self._loop(node, node.iter)

    def visit_While(self, node: ast.While) -> ast.AST:
        node.test = self.visit(node.test)
        return self._loop(node, node.test)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        node.target, node.iter = self.visit(node.target), self.visit(node.iter)
        node.body, node.orelse = self._body(node.body, False), self._visit_all(node.orelse)
        return node

    def _loop(self, node: _Loop, header: ast.expr) -> ast.AST:
        rewritten = self._is_worth_it(node)
        site = self._new_site(node) if rewritten else None
        node.body = self._body(node.body, rewritten)
        node.orelse = self._visit_all(node.orelse)
        if site is not None:
            node.body = _wrapped_body(node.body, site.index, header)
        return node

    def _body(self, body: list[ast.stmt], rewritten: bool) -> list[ast.stmt]:
        self.scope.loops.append(rewritten)
        try:
            return self._visit_all(body)
        finally:
            self.scope.loops.pop()

    def _is_worth_it(self, node: _Loop) -> bool:
        if self.scope.kind == "class" or (self.depth is not None and sum(self.scope.loops) >= self.depth):
            return False
        kinds = {type(inner) for inner in own_nodes(node.body)}
        suspends = {ast.Yield, ast.YieldFrom, ast.Await, ast.AsyncFor, ast.AsyncWith}
        return ast.Call in kinds and not kinds & suspends

    def _new_site(self, node: _Loop) -> LoopSite:
        first, last = node.body[0], node.body[-1]
        decorators = getattr(first, "decorator_list", [])
        site = LoopSite(
            index=next(_indices),
            filename=self.filename,
            function=self.scope.qualname,
            header_line=node.lineno,
            body_first_line=min([first.lineno, *(decorator.lineno for decorator in decorators)]),
            body_last_line=last.end_lineno or last.lineno,
            assigned=bound_names(node.body),
            targets=header_names(node.target) if isinstance(node, ast.For) else frozenset(),
            function_line=self.scope.line,
        )
        self.sites.append(site)
        return site

    # Ways out of a loop's body ------------------------------------------------------------------------------------

    def visit_Break(self, node: ast.Break) -> ast.AST | list[ast.stmt]:
        if not (self.scope.loops and self.scope.loops[-1]):
            return node
        return [_at(node, ast.Expr(_call("__whynan_leave__", node))), node]

    def visit_Return(self, node: ast.Return) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if not any(self.scope.loops):
            return node
        if node.value is None:
            return [_at(node, ast.Expr(_call("__whynan_leave__", node))), node]
        node.value = _call("__whynan_leave__", node.value, node.value)
        return node

    # Handlers and next() ------------------------------------------------------------------------------------------

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        if self.scope.kind != "class":
            place = node.type or node
            node.body.insert(0, _at(place, ast.Expr(_call("__whynan_caught__", place))))
        return node

    def visit_TryStar(self, node: ast.TryStar) -> ast.AST:
        node.body = self._visit_all(node.body)
        for handler in node.handlers:
            handler.body = self._visit_all(handler.body)
        node.orelse = self._visit_all(node.orelse)
        node.finalbody = self._visit_all(node.finalbody)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """`loss != loss` asks whether a number is NaN."""
        self.generic_visit(node)
        right = node.comparators[0]
        is_same = isinstance(node.left, ast.Name) and isinstance(right, ast.Name) and node.left.id == right.id
        if is_same and isinstance(node.ops[0], ast.NotEq | ast.Eq) and self.scope.kind != "class":
            node.left = _call("__whynan_asked__", node.left, node.left)
        return node

    def _asks(self, node: ast.Call) -> None:
        """Let the host see what `isnan`, `isinf` or `isfinite` is asked about."""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if name not in ("isnan", "isinf", "isfinite") or node.keywords or self.scope.kind == "class":
            return
        if len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
            node.args[0] = _call("__whynan_asked__", node.args[0], node.args[0])
        elif not node.args and isinstance(node.func, ast.Attribute):
            node.func.value = _call("__whynan_asked__", node.func.value, node.func.value)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        self._asks(node)
        is_next = isinstance(node.func, ast.Name) and node.func.id == "next" and not self.own_next
        if not is_next or not (self.scope.kind == "function" or self.scope.loops):
            return node
        if self.scope.kind == "class":
            return node
        replaying = _at(node, ast.Name("__whynan_replaying__", ast.Load()))
        again = _call("__whynan_redrawn__", node)
        return _at(node, ast.IfExp(replaying, again, _call("__whynan_drawn__", node, node)))


def _wrapped_body(body: list[ast.stmt], index: int, header: ast.expr) -> list[ast.stmt]:
    """Return the body inside the site's loop and `try`, all of whynan's own nodes at the loop's header."""
    failed = _call("__whynan_failed__", header, _at(header, ast.Constant(index)))
    reraise = ast.If(_at(header, ast.UnaryOp(ast.Not(), failed)), [_at(header, ast.Raise())], [])
    # A bare `except:`, since the user may have a `BaseException` of their own.
    handler = ast.ExceptHandler(None, None, [_at(header, reraise)])
    attempt = ast.Try(body, [_at(header, handler)], [], [])
    site = ast.For(
        target=_at(header, ast.Tuple([], ast.Store())),
        iter=_at(header, ast.Name(f"__whynan_site_{index}__", ast.Load())),
        body=[_at(header, attempt)],
        orelse=[_at(header, ast.Continue())],
    )
    return [_at(header, site), _at(header, ast.Break())]


def _call(name: str, place: ast.AST, *args: ast.expr) -> ast.Call:
    return _at(place, ast.Call(_at(place, ast.Name(name, ast.Load())), list(args), []))


def _at(place: ast.AST, node: _N) -> _N:
    return ast.copy_location(node, place)
