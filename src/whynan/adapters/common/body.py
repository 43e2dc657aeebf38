"""The body of a loop as a function of its own, run apart from the user's frame, and what an iteration of it changes."""

import ast
import copy
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, TypeVar

from whynan.adapters.common.patches import quiet, swapped
from whynan.launch.host import is_user_file
from whynan.launch.rewrite import LoopSite
from whynan.snapshot import (
    GlobalRandomState,
    find_loop,
    frame_values,
    generator_state,
    is_module_frame,
    set_generator_state,
)

_MAX_OBJECTS = 2000
_MAX_ITEMS = 512
_MAX_BYTES = 256 * 2**20


class Reached:
    """Arrays, containers and objects that a frame's names lead to, by identity, with a name for each array."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.arrays: dict[int, tuple[str, Any]] = {}
        self.owners: dict[int, Any] = {}
        self.generators: list[Any] = []
        for name, value in values.items():
            if not name.startswith("__"):
                self._visit(name, value, 0)

    def _visit(self, name: str, value: Any, depth: int) -> None:
        np = sys.modules["numpy"]
        if isinstance(value, np.ndarray):
            if value.dtype.kind in "fiucb":
                self.arrays.setdefault(id(value), (name, value))
            return
        if type(value).__module__.startswith("jaxlib") and getattr(value, "dtype", np.dtype("O")).kind in "fiucbV":
            self.arrays.setdefault(id(value), (name, value))
            return
        if depth > 4 or id(value) in self.owners or len(self.owners) > _MAX_OBJECTS:
            return
        if isinstance(value, (type, FunctionType, ModuleType, str, bytes, int, float, complex)) or value is None:
            return
        if generator_state(value) is not None:
            self.generators.append(value)
        elif isinstance(value, dict):
            self.owners[id(value)] = value
            for key, item in list(value.items())[:_MAX_ITEMS]:
                self._visit(f"{name}[{key!r}]", item, depth + 1)
        elif isinstance(value, (list, tuple, set)):
            self.owners[id(value)] = value
            if isinstance(next(iter(value), None), (int, float, str, np.generic)):
                return
            for i, item in enumerate(list(value)[:_MAX_ITEMS]):
                self._visit(f"{name}[{i}]", item, depth + 1)
        elif is_users_object(value):
            self.owners[id(value)] = value
            for key, item in list(vars(value).items()):
                self._visit(f"{name}.{key}", item, depth + 1)


def is_users_object(value: Any) -> bool:
    module = sys.modules.get(type(value).__module__)
    file = getattr(module, "__file__", None)
    return hasattr(value, "__dict__") and file is not None and (is_user_file(file) or module is sys.modules["__main__"])


class State:
    """The state at one moment. Arrays are copied as far as `is_wanted` says; the rest is kept by reference."""

    def __init__(self, frame: FrameType, wanted: set[str] | None) -> None:
        self.is_module = is_module_frame(frame)
        self.values = {k: v for k, v in (frame_values(frame) or {}).items() if not k.startswith("__")}
        self.reached = Reached(self.values)
        self.copies: list[tuple[str, Any, Any]] = []
        n_bytes = 0
        for name, array in self.reached.arrays.values():
            if wanted is not None and name not in wanted:
                continue
            n_bytes += array.nbytes
            if n_bytes > _MAX_BYTES:
                break
            if _is_changeable(array):
                self.copies.append((name, array, array.copy()))
        self.shallow = [(owner, _shallow(owner)) for owner in self.reached.owners.values()]
        self.generators = [(g, generator_state(g)) for g in self.reached.generators]
        self.random = GlobalRandomState()

    def restore(self, frame: FrameType | None = None) -> None:
        """Put arrays, containers, objects and random streams back; names of a module too."""
        for _, array, kept in self.copies:
            if array.shape == kept.shape:
                array[...] = kept
        for owner, kept in self.shallow:
            _put_back(owner, kept)
        for generator, state in self.generators:
            set_generator_state(generator, state)
        self.random.restore()
        if self.is_module and frame is not None:
            space = frame.f_globals
            for name in [n for n in space if not n.startswith("__") and n not in self.values]:
                del space[name]
            space.update(self.values)

    def changed(self, after: "Reached") -> set[str]:
        """Return the names of arrays that are other ones, or hold other numbers, than at this moment."""
        now = dict(after.arrays.values())
        then = {name: (array, array) for name, array in self.reached.arrays.values() if not hasattr(array, "flags")}
        then |= {name: (array, copy) for name, array, copy in self.copies}
        found = set()
        for name, array in now.items():
            known = then.get(name)
            if known is None or array.shape != known[1].shape or array.dtype != known[1].dtype:
                continue
            if not sys.modules["numpy"].array_equal(array, known[1], equal_nan=array.dtype.kind in "fc"):
                found.add(name)
        return found


def _is_changeable(array: Any) -> bool:
    """Whether an array can be changed in place: JAX's can't."""
    return hasattr(array, "flags") and bool(array.flags.writeable)


def _shallow(owner: Any) -> Any:
    if isinstance(owner, dict):
        return dict(owner)
    if isinstance(owner, list):
        return list(owner)
    if isinstance(owner, set):
        return set(owner)
    if isinstance(owner, tuple):
        return None
    return dict(vars(owner))


def _put_back(owner: Any, copy: Any) -> None:
    if copy is None:
        return
    if isinstance(owner, list):
        owner[:] = copy
    elif isinstance(owner, (dict, set)):
        owner.clear()
        owner.update(copy)
    else:
        attributes = vars(owner)
        attributes.clear()
        attributes.update(copy)


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
    return Body(inner.replace(co_name=site.function.rpartition(".")[2], co_qualname=site.function), names)


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
        self.plain: tuple[float, set[str]] | None = None
        """The learning rate and the weights, where each of these is updated by `weight - rate * gradient`."""
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
