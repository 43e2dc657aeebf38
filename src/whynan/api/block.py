"""The body of a `with` statement as code that can be run again in the names of its frame."""

import ast
import linecache
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from whynan.launch.names import bound_names, header_names
from whynan.launch.rewrite import LoopSite, _indices
from whynan.snapshot.python_state import frame_values, is_module_frame


class LeftBlockError(Exception):
    """The block was left by `break`, `continue` or `return`."""


@dataclass(frozen=True)
class Block:
    """A `with` statement's body. `code` is None where it can't be run by itself (it yields or awaits)."""

    site: LoopSite
    code: CodeType | None

    def run(self, frame: FrameType) -> None:
        """Run the body again in the frame's names. A function's own variables keep what they were bound to."""
        assert self.code is not None
        if is_module_frame(frame):
            exec(self.code, frame.f_globals)
            return
        # One namespace: functions and comprehensions in the body look their names up there.
        names: dict[str, Any] = {**frame.f_globals, **(frame_values(frame) or {})}
        exec(self.code, names)


def find_block(frame: FrameType) -> Block | None:
    """Return the innermost `with` statement on whose head the frame stands; None where its source is not known."""
    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return None
    node = _with_at(tree, frame.f_lineno)
    if node is None:
        return None
    targets: frozenset[str] = frozenset()
    for outer in ast.walk(tree):
        if isinstance(outer, ast.For) and outer.lineno <= node.lineno <= (outer.end_lineno or 0):
            targets = frozenset(header_names(outer.target))  # the innermost comes last
    code = frame.f_code
    site = LoopSite(
        index=next(_indices),
        filename=code.co_filename,
        function=code.co_qualname,
        header_line=node.lineno,
        body_first_line=node.body[0].lineno,
        body_last_line=node.body[-1].end_lineno or node.body[-1].lineno,
        assigned=frozenset(bound_names(node.body)),
        targets=targets,
        function_line=0 if is_module_frame(frame) else code.co_firstlineno,
    )
    return Block(site, _compiled(node, code))


def _with_at(tree: ast.AST, line: int) -> ast.With | None:
    found = None
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and node.lineno <= line < node.body[0].lineno:
            found = node
    return found


def _compiled(node: ast.With, code: CodeType) -> CodeType | None:
    try:
        body = [_Leaves().visit(statement) for statement in node.body]
        module = ast.fix_missing_locations(ast.Module(body=body, type_ignores=[]))
        made = compile(module, code.co_filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    return made.replace(co_name=code.co_name, co_qualname=code.co_qualname) if code.co_name != "<module>" else made


class _Leaves(ast.NodeTransformer):
    """Turns the ways out of the block into an exception."""

    def __init__(self) -> None:
        self.n_loops = 0

    def _raise(self, node: ast.stmt) -> ast.stmt:
        name = ast.copy_location(ast.Name("__whynan_left__", ast.Load()), node)
        return ast.copy_location(ast.Raise(exc=name, cause=None), node)

    def visit_Return(self, node: ast.Return) -> ast.stmt:
        return self._raise(node)

    def visit_Break(self, node: ast.Break) -> ast.stmt:
        return node if self.n_loops else self._raise(node)

    def visit_Continue(self, node: ast.Continue) -> ast.stmt:
        return node if self.n_loops else self._raise(node)

    def _loop(self, node: Any) -> Any:
        self.n_loops += 1
        self.generic_visit(node)
        self.n_loops -= 1
        return node

    visit_For = visit_While = _loop  # noqa: N815

    def _scope(self, node: Any) -> Any:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = visit_ClassDef = _scope  # noqa: N815
