"""Compiles the user's own modules with their loops rewritten, and tells when a framework has been imported.

While an import runs none of whynan's frames is on the stack and every object is the one that a plain import makes: the
standard finders find, the standard loaders load. Only a loader's `get_code` is answered once, with rewritten code.
whynan's imports and the user's are kept apart where files beside the script have the name of an installed module.

Imports also decide at first which framework the script's loops belong to, where there is more than one; what takes the
first gradient decides for good. A script may load its data with another framework, or import one through a library:
TensorBoard's writer brings TensorFlow, Keras on PyTorch does, a network in NumPy takes digits from `keras.datasets`.
"""

import linecache
import os
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, FrameType, ModuleType
from typing import Any

from whynan.launch import host
from whynan.launch.host import is_user_file, user_codes
from whynan.launch.rewrite import Rewritten, rewrite

Callback = Callable[[ModuleType], object]

_callbacks: dict[str, list[Callback]] = {}
# What a plain interpreter has imported before it comes to the script; a file of that name beside it never counts.
_AT_START = frozenset(
    """
    __main__ _abc _codecs _collections_abc _frozen_importlib _frozen_importlib_external _imp _io _signal _sitebuiltins
    _stat _thread _warnings _weakref abc builtins codecs encodings genericpath importlib io marshal nt ntpath os posix
    posixpath site sitecustomize stat sys time usercustomize whynan winreg zipimport
    """.split()  # noqa: SIM905
)
_OUR_TOOLS = frozenset(("click", "rich", "jinja2", "markupsafe", "pygments", "markdown_it", "mdurl"))

_kept: list[ModuleType] = []
_shadowing: dict[str, frozenset[str]] = {}
_TRAINS = {
    "torch": re.compile(r"\.backward\(|autograd|\boptim\b|Trainer\(|\bgrad_and_value\b|torch\.func\b"),
    "tensorflow": re.compile(r"GradientTape|(?<!re)\.compile\("),
    "jax": re.compile(r"\bgrad\(|value_and_grad|(?<!re)\.compile\("),
    "mindspore": re.compile(r"value_and_grad|GradOperation|TrainOneStep|\bModel\("),
}
"""What a script that trains with a framework calls."""


def install(root: str) -> "UserFinder":
    """Let imports of modules below the directory `root` be rewritten."""
    finder = UserFinder(root)
    sys.meta_path.insert(0, finder)
    return finder


def when_imported(name: str, callback: Callback) -> None:
    """Call `callback(module)` right after the user's program has imported module `name`; now, if it has already."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        _call(name, callback, module)
    else:
        _callbacks.setdefault(name, []).append(callback)


class UserFinder:
    """Finds what the finders after it find, and prepares the loaders of the user's modules.

    The user's modules lie below the script's directory, or below the project's where the script lies in a project.
    """

    def __init__(self, root: str) -> None:
        self.root = project_of(os.path.realpath(root))
        self.installed = _installed_directories()
        self._is_user_directory: dict[str, bool] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is not None:
                self._prepare(name, spec)
                return spec
        return None

    def _prepare(self, name: str, spec: ModuleSpec) -> None:
        try:
            if name in _callbacks:
                spec.__class__ = _ToldSpec
            if type(spec.loader) is SourceFileLoader and spec.origin and self._is_users(name, spec.origin):
                _rewrite_once(spec.loader, spec.origin)
        except Exception as error:
            host.tell(f"preparing module {name} failed", error)

    def _is_users(self, name: str, path: str) -> bool:
        if name in _LOOPS:
            return True
        return name.partition(".")[0] not in _FRAMEWORKS and self.is_user_path(path)

    def is_user_path(self, path: str) -> bool:
        """Whether a source file is the user's own: below the root, and not installed."""
        return self._is_user(os.path.dirname(os.path.realpath(path)))

    def _is_user(self, directory: str) -> bool:
        known = self._is_user_directory.get(directory)
        if known is None:
            known = self._is_user_directory[directory] = self._look_at(directory)
        return known

    def _look_at(self, directory: str) -> bool:
        installed = (
            directory in self.installed
            or os.path.basename(directory) in ("site-packages", "dist-packages")
            or os.path.exists(os.path.join(directory, "pyvenv.cfg"))
        )
        if installed or directory == _OURSELVES:
            return False
        parent = os.path.dirname(directory)
        return directory == self.root or (parent != directory and self._is_user(parent))


def project_of(directory: str) -> str:
    """Return the directory of the project in which `directory` lies; itself where there is no sign of a project."""
    home, place = os.path.expanduser("~"), directory
    while place != home and place != os.path.dirname(place):
        if any(os.path.exists(os.path.join(place, sign)) for sign in _PROJECT_SIGNS):
            return place
        place = os.path.dirname(place)
    return directory


_PROJECT_SIGNS = (".git", "pyproject.toml", "setup.py", "setup.cfg")

# Checked out and installed in place, a framework lies in a project like any other; its loops are not the user's.
_FRAMEWORKS = frozenset("torch torchvision torchaudio tensorflow keras jax flax numpy mindspore lightning".split())  # noqa: SIM905

# Trainers without a function for one step: their loop is run again as a user's own would be.
_LOOPS = frozenset({"ultralytics.engine.trainer"})

_OURSELVES = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def _installed_directories() -> frozenset[str]:
    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places += site.getsitepackages() if hasattr(site, "getsitepackages") else []
    return frozenset(os.path.realpath(place) for place in places if place)


def _rewrite_once(loader: SourceFileLoader, path: str) -> None:
    """Let the next `loader.get_code` give rewritten code.

    A module that doesn't compile is left to the import system, whose error then is the plain one.
    """
    try:
        rewritten = rewrite(loader.get_data(path), path)
    except Exception:
        return
    vars(loader)["get_code"] = _Once(loader, rewritten)


def is_users_path(path: str) -> bool:
    """Whether a file is the user's own by the finder that `install` has set up."""
    return any(isinstance(finder, UserFinder) and finder.is_user_path(path) for finder in sys.meta_path)


def rewritten_code(path: str, plain: CodeType) -> CodeType:
    """Return the code of a file that is run and not imported, rewritten where it is the user's."""
    with open(path, "rb") as file:
        rewritten = rewrite(file.read(), path)
    host.register(path, rewritten.sites, rewritten.code, plain)
    return rewritten.code


class _Once:
    """`get_code` of one loader for one call; then the loader is as it was."""

    def __init__(self, loader: SourceFileLoader, rewritten: Rewritten) -> None:
        self.loader = loader
        self.rewritten = rewritten

    def __call__(self, name: str) -> CodeType | None:
        vars(self.loader).pop("get_code", None)
        # Reads or writes the .pyc just as a plain run does.
        plain = self.loader.get_code(name)
        code = self.rewritten.code
        if plain is None or plain.co_filename != code.co_filename:
            return plain
        host.register(code.co_filename, self.rewritten.sites, code, plain)
        return code


class _ToldSpec(ModuleSpec):
    """A module's spec that calls back when the import system says that the module is complete."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_initializing" and not value:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            _module_complete(self.name)


def _module_complete(name: str) -> None:
    module = sys.modules.get(name)
    # Where the import failed there is none; a later attempt may succeed.
    if module is not None:
        for callback in _callbacks.pop(name, ()):
            _call(name, callback, module)


def _call(name: str, callback: Callback, module: ModuleType) -> None:
    try:
        callback(module)
    except Exception as error:
        host.tell(f"watching {name} failed", error)


def forget_shadowed(root: str) -> None:
    """Forget imported modules that plain python would have imported from the directory `root` instead.

    whynan's imports came first: without this a `types.py` or `random.py` beside the script would not be found.
    """
    shadowing = _names_in(root) - _AT_START - set(sys.builtin_module_names)
    _shadowing[root] = shadowing & (sys.stdlib_module_names | _OUR_TOOLS)
    # The code that imported them still uses them.
    _kept.extend(_take_modules(shadowing).values())


@contextmanager
def own_imports() -> Iterator[None]:
    """Let imports find what is installed, whatever the user's files are called; afterwards all is as it was."""
    names = frozenset().union(*_shadowing.values())
    if not names:
        yield
        return
    path, modules = sys.path[:], _take_modules(names)
    sys.path[:] = [place for place in path if os.path.realpath(place) not in _shadowing]
    try:
        yield
    finally:
        _kept.extend(_take_modules(names).values())
        sys.modules.update(modules)
        sys.path[:] = path


def _take_modules(names: frozenset[str]) -> dict[str, ModuleType]:
    taken = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    for name in taken:
        del sys.modules[name]
    return taken


def _names_in(root: str) -> frozenset[str]:
    """Return the names of the modules and packages in a directory."""
    try:
        entries = os.listdir(root)
    except OSError:
        return frozenset()
    modules = {entry.removesuffix(".py") for entry in entries if entry.endswith(".py")}
    packages = {entry for entry in entries if os.path.isfile(os.path.join(root, entry, "__init__.py"))}
    return frozenset(modules | packages)


class Ownership:
    """The framework whose adapter answers the loops, and how it came to that."""

    def __init__(self) -> None:
        self.owner: str | None = None
        self._is_users_choice = False

    def falls_to(self, framework: str) -> bool:
        """Whether the loops go over to a framework that is being imported now."""
        is_users_choice = _is_imported_by_user()
        if self.owner is None:
            decided = True
        elif self.owner == "numpy":
            decided = _speaks_of_training(framework)
        else:
            # What the program itself imports comes before what a library of its brings along.
            decided = is_users_choice and not self._is_users_choice
        if decided:
            self._is_users_choice = is_users_choice
        return decided


def _is_imported_by_user() -> bool:
    """Whether the import under way stands in the user's own code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file):
            return True
        if not file.startswith("<frozen importlib") and "whynan" not in frame.f_globals.get("__name__", "").split("."):
            return False
        frame = frame.f_back
    return False


def _speaks_of_training(framework: str) -> bool:
    """Whether the user's files, as far as they are known, call anything that trains with the framework."""
    pattern = _TRAINS.get(framework)
    return pattern is None or any(pattern.search("".join(linecache.getlines(file))) for file in user_codes)
