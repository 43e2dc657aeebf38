"""The body of a loop as a function of its own, that can be run apart from the user's frame."""

import ast
import copy
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import Any, TypeVar

from whynan.adapters.common.patches import quiet
from whynan.adapters.common.state import State
from whynan.adapters.common.swap import swapped
from whynan.launch.rewrite import LoopSite
from whynan.snapshot.carried import find_loop

BODY = "__whynan_body__"
T = TypeVar("T")
Change = Callable[[ast.AST], ast.AST]
Around = Callable[[ExitStack, FrameType], None]


def nothing(stack: ExitStack, frame: FrameType) -> None:
    """Enter nothing."""


def no_look(values: dict[str, Any]) -> None:
    """Make nothing of the names."""


@dataclass(frozen=True)
class Body:
    """The body as a code object: `parameters` are the names it takes; None where it runs as a module's."""

    code: CodeType
    parameters: tuple[str, ...] | None


def body_of(site: LoopSite, names: tuple[str, ...], change: Change | None, source: str | None = None) -> Body:
    """Return a loop's body; `change` is made to its tree. Raises SyntaxError where it can't stand alone (it yields)."""
    loop = find_loop(site) if source is None else _find_in(source, site)
    if loop is None:
        raise SyntaxError("the loop's source is not known")
    # A loop of one round: `break` and `continue` keep their meaning.
    once: ast.AST = ast.For(
        ast.Name("__whynan_once__", ast.Store()),
        ast.Tuple([ast.Constant(0)], ast.Load()),
        copy.deepcopy(loop.body),
        [],
        lineno=loop.lineno,
    )
    ast.copy_location(once, loop)
    if change is not None:
        once = change(once)
    if site.function == "<module>":
        module = ast.Module([once], [])  # type: ignore[list-item]
        return Body(compile(ast.fix_missing_locations(module), site.filename, "exec", dont_inherit=True), None)
    returned = ast.parse("return locals()").body[0]
    arguments = ast.arguments([], [ast.arg(name) for name in names], None, [], [], None, [])
    function = ast.FunctionDef(BODY, arguments, [once, returned], [], None)  # type: ignore[list-item]
    if sys.version_info >= (3, 12):
        function.type_params = []
    ast.copy_location(function, loop)
    module = ast.Module([function], [])
    code = compile(ast.fix_missing_locations(module), site.filename, "exec", dont_inherit=True)
    inner = next(constant for constant in code.co_consts if isinstance(constant, CodeType))
    if inner.co_freevars:
        raise SyntaxError("the loop's body shares names with a function around it")
    return Body(inner, names)


def _find_in(source: str, site: LoopSite) -> ast.For | ast.While | None:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.For, ast.While)) and node.lineno == site.header_line:
            return node
    return None


class Again:
    """One iteration that can be run again. `before` is its state when it began, `instrument` what its code becomes."""

    def __init__(self, site: LoopSite, frame: FrameType, before: State, instrument: Change | None = None) -> None:
        self.site = site
        self.frame = frame
        self.before = before
        self.instrument = instrument
        self.after = State(frame, None if instrument is not None else set())
        is_module = site.function == "<module>"
        self.function = "<module>" if is_module else site.function.rpartition(".")[2]
        self.names = tuple(name for name in before.values if name.isidentifier())
        self._bodies: dict[str | None, Body] = {}

    def run(
        self,
        around: Around,
        look: Callable[[dict[str, Any]], T],
        change: Callable[[dict[str, Any]], None] | None = None,
        sources: dict[str, str] | None = None,
    ) -> T:
        """Run the body from the state before it; return what `look` makes of its names while they are there.

        `around` enters what must be in force; `change` may change the names before; `sources` are changed files by
        name. All is put back afterwards.
        """
        self.before.restore(self.frame)
        values = dict(self.before.values)
        if change is not None:
            change(values)
        try:
            return self._run(around, look, values, sources or {})
        finally:
            self.after.restore(self.frame)

    def begin_series(self, start: State) -> None:
        """Go back to an earlier state, for iterations one after the other."""
        start.restore(self.frame)

    def next_in_series(self, around: Around, values: dict[str, Any], look: Callable[[dict[str, Any]], T]) -> T:
        """Run the body once more with these names, on whatever the last run has left."""
        return self._run(around, look, values, {})

    def end_series(self) -> None:
        self.after.restore(self.frame)

    def _run(
        self, around: Around, look: Callable[[dict[str, Any]], T], values: dict[str, Any], sources: dict[str, str]
    ) -> T:
        source = sources.get(self.site.filename)
        if source not in self._bodies:
            self._bodies[source] = body_of(self.site, self.names, self.instrument, source)
        body = self._bodies[source]
        with quiet(), ExitStack() as stack:
            if sources or self.instrument is not None:
                stack.enter_context(swapped(sources, self.instrument))
            around(stack, sys._getframe())
            return look(self._execute(body, values))

    def _execute(self, body: Body, values: dict[str, Any]) -> dict[str, Any]:
        if body.parameters is None:
            space = self.frame.f_globals
            space.update(values)
            exec(body.code, space)
            return dict(space)
        function = FunctionType(body.code, self.frame.f_globals, BODY)
        given = {name: values.get(name) for name in body.parameters}
        result = function(**given)
        return result if isinstance(result, dict) else given
