"""What an iteration of a loop changes: names, attributes, containers, and arrays in place."""

import sys
from types import FrameType, FunctionType, ModuleType
from typing import Any

from whynan.launch.host import is_user_file
from whynan.snapshot.python_state import (
    GlobalRandomState,
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
        for _, array, copy in self.copies:
            if array.shape == copy.shape:
                array[...] = copy
        for owner, copy in self.shallow:
            _put_back(owner, copy)
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
