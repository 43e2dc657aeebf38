"""Python's side of a snapshot: names, containers and plain objects that an iteration of a loop changes.

No framework here. A snapshot holds references and shallow copies; what it cannot put back it names. Which names a
loop's body carries from one iteration to the next and which it can reach is told from the source: a name that the body
always binds before it reads it (`loss = ...`) needs no value from before; holding on to it would keep the previous
iteration's tensors alive.
"""

import ast
import ctypes
import dis
import functools
import linecache
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from whynan.launch.rewrite import LoopSite

_MAX_ITEMS = 4096
_MAX_OBJECTS = 400
_CONTAINERS = (list, dict, set, bytearray, deque)
_MISSING = object()


_READS_LOCALS = {"locals", "vars", "dir", "exec", "eval"}


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


@functools.cache
def _asks_for_locals(code: CodeType) -> bool:
    if _READS_LOCALS.isdisjoint(code.co_names):
        return False
    # `model.eval()` is an attribute's name; only a global (a builtin) counts.
    return any(
        instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval in _READS_LOCALS
        for instruction in dis.get_instructions(code)
    )


def frame_values(frame: FrameType) -> dict[str, Any] | None:
    """Return a copy of what a frame's names stand for; None where looking could be noticed.

    Up to Python 3.12 a function's `f_locals` is one dict that `locals()` hands out too, and that holds on to what
    it holds. It is emptied after the look; in a function that asks for its locals it is not touched.
    """
    if is_module_frame(frame):
        return dict(frame.f_globals)
    if sys.version_info >= (3, 13):
        return dict(frame.f_locals)
    if _asks_for_locals(frame.f_code):
        return None
    local = frame.f_locals
    values = dict(local)
    local.clear()
    return values


def is_module_frame(frame: FrameType) -> bool:
    return frame.f_code.co_name == "<module>"


class NamesSnapshot:
    """The values of some names in a frame: locals of a function, or a module's globals."""

    def __init__(self, frame: FrameType, names: Iterable[str], values: dict[str, Any] | None) -> None:
        self.is_module = is_module_frame(frame)
        self.complete = values is not None
        names = list(names) if values is not None else []
        self.values = {name: values.get(name, _MISSING) for name in names} if values is not None else {}
        self.globals = {
            name: frame.f_globals.get(name, _MISSING)
            for name in names
            if not self.is_module and name in frame.f_globals
        }

    def restore(self, frame: FrameType, changed: dict[str, Any] | None = None) -> None:
        """Bind the names as they were; `changed` overrides single values (another batch, for an experiment)."""
        values = {**self.values, **(changed or {})}
        if self.is_module:
            _update(frame.f_globals, values)
            return
        _update(frame.f_globals, self.globals)
        self.bind(frame, values)

    @staticmethod
    def bind(frame: FrameType, values: dict[str, Any]) -> None:
        """Bind names of a frame, a function's or a module's."""
        if is_module_frame(frame):
            _update(frame.f_globals, values)
            return
        if not values:
            return
        local = frame.f_locals
        for name, value in values.items():
            if value is not _MISSING:
                local[name] = value
            elif sys.version_info < (3, 13):
                local.pop(name, None)
        if sys.version_info < (3, 13):
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(1))
            local.clear()


def _update(namespace: dict[str, Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is _MISSING:
            namespace.pop(name, None)
        else:
            namespace[name] = value


class ObjectsSnapshot:
    """Shallow copies of containers and of the attributes of the user's own objects, by identity."""

    def __init__(self, roots: Iterable[Any], is_users: Callable[[type], bool]) -> None:
        self.copies: list[tuple[Any, Any]] = []
        self.generators: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()
        for root in roots:
            if kind_of(type(root), is_users):
                self._visit(root, is_users, 0)

    def _visit(self, value: Any, is_users: Callable[[type], bool], depth: int) -> None:
        if id(value) in self._seen or len(self._seen) > _MAX_OBJECTS:
            return
        self._seen.add(id(value))
        kind = kind_of(type(value), is_users)
        if kind == "container":
            self._container(value, is_users, depth)
        elif kind == "generator":
            self.generators.append((value, generator_state(value)))
        elif kind == "object" and depth < 4:
            attributes = vars(value)
            self.copies.append((value, {k: v for k, v in attributes.items() if type(v).__name__ != "ndarray"}))
            for item in list(attributes.values())[:64]:
                if kind_of(type(item), is_users):
                    self._visit(item, is_users, depth + 1)

    def _container(self, value: Any, is_users: Callable[[type], bool], depth: int) -> None:
        if len(value) > _MAX_ITEMS:
            if isinstance(value, (list, deque)):
                self.copies.append((value, len(value)))
            return
        self.copies.append((value, _plain_copy(value)))
        if depth < 2 and len(value) <= 64:
            for item in list(value.values() if isinstance(value, dict) else value):
                if kind_of(type(item), is_users):
                    self._visit(item, is_users, depth + 1)

    def restore(self) -> None:
        for value, copy in self.copies:
            _put_back(value, copy)
        for generator, state in self.generators:
            set_generator_state(generator, state)


_KINDS: dict[type, str | None] = {}


def kind_of(kind: type, is_users: Callable[[type], bool]) -> str | None:
    """Return what a value of this type is to a snapshot: container, generator, object of the user's; None: nothing."""
    try:
        return _KINDS[kind]
    except KeyError:
        found = _KINDS[kind] = _find_kind(kind, is_users)
        return found


def _find_kind(kind: type, is_users: Callable[[type], bool]) -> str | None:
    if issubclass(kind, (ModuleType, type, str, int, float)):
        return None
    if issubclass(kind, _CONTAINERS):
        return "container"
    if issubclass(kind, generator_types()):
        return "generator"
    return "object" if is_users(kind) and hasattr(kind, "__dict__") and kind.__dictoffset__ != 0 else None


def generator_types() -> tuple[type, ...]:
    """Return the types of random generators of the libraries that the program has imported."""
    found: list[type] = [random.Random]
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and hasattr(numpy, "random"):
        found += [numpy.random.Generator, numpy.random.RandomState]
    if torch is not None and hasattr(torch, "Generator"):
        found.append(torch.Generator)
    return tuple(found)


def _plain_copy(value: Any) -> Any:
    kind: Any
    for kind in (dict, list, set, bytearray):
        if isinstance(value, kind):
            return kind(value)
    return list(value)


def _put_back(value: Any, copy: Any) -> None:
    if isinstance(copy, int):  # only the length was kept: a long list that grows at its end
        while len(value) > copy:
            value.pop()
    elif isinstance(value, (list, bytearray)):
        value[:] = copy
    elif isinstance(value, deque):
        value.clear()
        value.extend(copy)
    elif isinstance(value, set):
        value.clear()
        value.update(copy)
    elif isinstance(value, dict):
        if not _same_items(value, copy):
            value.clear()
            value.update(copy)
    else:
        # Arrays are left out: a reference more would keep `ndarray.resize` from working.
        attributes = vars(value)
        for key in [k for k, v in attributes.items() if k not in copy and type(v).__name__ != "ndarray"]:
            del attributes[key]
        attributes.update(copy)


def _same_items(left: dict[Any, Any], right: dict[Any, Any]) -> bool:
    return len(left) == len(right) and all(left.get(key, _MISSING) is item for key, item in right.items())


def generator_state(value: Any) -> Any:
    """Return the state of a random generator (Python's, NumPy's; PyTorch's has get_state); None for anything else."""
    if isinstance(value, random.Random):
        return ("python", value.getstate())
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        if isinstance(value, numpy.random.Generator):
            return ("numpy", value.bit_generator.state)
        if isinstance(value, numpy.random.RandomState):
            return ("numpy-legacy", value.get_state())
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Generator):
        return ("torch", value.get_state())
    return None


def set_generator_state(value: Any, state: Any) -> None:
    kind, saved = state
    if kind == "python":
        value.setstate(saved)
    elif kind == "numpy":
        value.bit_generator.state = saved
    else:
        value.set_state(saved)


_MT19937_BYTES = 625 * 4
_COMPARED_BYTES = 5 * 4
_HEADER_BYTES = object.__basicsize__
_last: dict[str, tuple[Any, Any]] = {}
"""By stream, what its generator's memory held when its state was last asked for, and that state.

To ask for a state takes tens of microseconds, and it is asked at each step; to compare memory takes less than one.
What is compared is the position and the first words: another state of the same position has other words.
"""


def _state_of(stream: str, held: Any, ask: Callable[[], Any]) -> Any:
    """Return a stream's state, the one from before where its memory is as it was; `held` None: not known."""
    known = _last.get(stream)
    if held is not None and known is not None and known[0] == held:
        return known[1]
    state = ask()
    _last[stream] = (held, state)
    return state


@functools.cache
def _knows_layout() -> bool:
    """Whether CPython keeps the words of a `random.Random` behind the object's header: the index, then the state."""
    generator = random.Random(1)
    if random.Random.__basicsize__ < _HEADER_BYTES + _MT19937_BYTES or type(random._inst) is not random.Random:
        return False
    words = memoryview(ctypes.string_at(id(generator) + _HEADER_BYTES, _MT19937_BYTES)).cast("I").tolist()
    return bool((*words[1:], words[0]) == generator.getstate()[1])


def _python_state() -> Any:
    generator: Any = random._inst
    held = None
    if _knows_layout():
        held = (generator.gauss_next, ctypes.string_at(id(generator) + _HEADER_BYTES, _COMPARED_BYTES))
    return _state_of("python", held, random.getstate)


def _numpy_state(numpy: Any) -> Any:
    generator: Any = getattr(getattr(numpy.random.mtrand, "_rand", None), "_bit_generator", None)
    held = None
    if type(generator).__name__ == "MT19937":
        address = generator.ctypes.state_address
        position = ctypes.string_at(address + _MT19937_BYTES - 4, 4)
        held = (position, ctypes.string_at(address, _COMPARED_BYTES))
    state = _state_of("numpy", held, numpy.random.get_state)
    if state[3]:
        # Half of a pair of normal numbers is waiting: to take it leaves the words as they are.
        _last.pop("numpy", None)
    return state


class GlobalRandomState:
    """Python's and NumPy's global random streams."""

    def __init__(self) -> None:
        self.python = _python_state()
        numpy = sys.modules.get("numpy")
        self.numpy = _numpy_state(numpy) if numpy is not None and hasattr(numpy, "random") else None

    def restore(self) -> None:
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)
