"""`whynan.watch`: from a line of the script on, and with a block as the iteration. All watches share one session."""

import ast
import builtins
import functools
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

import whynan
from whynan.api import Report
from whynan.errors import UsageError
from whynan.launch import Policy, RunOptions
from whynan.launch import host as launch_host
from whynan.launch.host import Unwind
from whynan.launch.imports import project_of
from whynan.launch.rewrite import LoopSite, Rewritten, _indices, bound_names, header_names, rewrite
from whynan.pipeline import Session
from whynan.records import Incident
from whynan.recovery import Limits
from whynan.snapshot import frame_values, is_module_frame

Event = dict[str, Any]
_OWN = str(Path(whynan.__file__).parent)


class Engine:
    """Holds the session and the adapter. `on_event` is called with a dict for each incident and intervention."""

    def __init__(self, options: RunOptions, on_event: Callable[[Event], None] | None) -> None:
        self.options = options
        self.on_event = on_event
        self.session = Session(options)
        self.root = Path(options.root)
        self._record = self.session.record
        self.session.record = self._recorded  # type: ignore[method-assign]
        launch_host.install()
        self.session.attach_torch(sys.modules["torch"])
        adapter: Any = self.session.adapter
        self.adapter = adapter
        self.host = adapter.host

    def _recorded(self, incident: Incident) -> None:
        self.session.incidents.append(incident)
        if self.options.out != Path() and self.options.policy != "stop":
            self.report().save(self.options.out)
        if self.on_event is not None:
            self.on_event({"event": "incident", "step": incident.symptom.step, **incident.to_json()})

    def report(self) -> Report:
        return Report(self.session.recording(None), (self.root, Path.cwd()))

    def is_running(self) -> bool:
        return not self.host.is_over

    @staticmethod
    def know(filename: str) -> None:
        """Take a file, and what the program has imported from beside it, for the user's own code."""
        root = project_of(str(Path(filename).resolve().parent)) if Path(filename).exists() else None
        launch_host.user_codes.setdefault(filename, [])
        if root is None:
            return
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file.startswith(root) and not _is_installed(file):
                launch_host.user_codes.setdefault(file, [])

    def register(self, filename: str, rewritten: Rewritten) -> None:
        """Make rewritten loops of a file runnable beside those that are known."""
        known = launch_host.user_codes.get(filename, [])
        launch_host.register(filename, [*known, *rewritten.sites])

    def add_site(self, site: LoopSite) -> Any:
        """Make a block known that is entered by hand; return what counts its passes."""
        launch_host.user_codes.setdefault(site.filename, []).append(site)
        return self.host.new_site(site)

    def close(self) -> None:
        if self.session.adapter is not None:
            self.adapter.detach()
            if self.options.out != Path():
                self.report().save(self.options.out)
            self.session.adapter = None


def rewritten_code(engine: Engine, code: CodeType) -> CodeType | None:
    """Return the code of a function whose loops can be run again, iteration by iteration; None where that cannot be."""
    try:
        rewritten = rewrite(Path(code.co_filename).read_bytes(), code.co_filename)
    except (OSError, SyntaxError, ValueError):
        return None
    found = _code_like(rewritten.code, code)
    if found is None or found.co_freevars != code.co_freevars:
        return None
    engine.register(code.co_filename, rewritten)
    return found


def _code_like(code: CodeType, wanted: CodeType) -> CodeType | None:
    """Return the code object among the constants that stands for the same function."""
    for constant in code.co_consts:
        if inspect.iscode(constant):
            if constant.co_qualname == wanted.co_qualname and constant.co_firstlineno == wanted.co_firstlineno:
                return constant
            found = _code_like(constant, wanted)
            if found is not None:
                return found
    return None


def _is_installed(file: str) -> bool:
    if file.startswith(_OWN):
        return True
    return "site-packages" in file or "dist-packages" in file or f"{sys.prefix}/lib/" in file


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


_P = ParamSpec("_P")
_R = TypeVar("_R")
_engine: Engine | None = None


class NonFiniteError(ArithmeticError):
    """A step went non-finite and was stopped before its update. `report` says where and why."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(f"{report!r}\n{report}")


def watch(
    *parts: Any,
    policy: Policy = "stop",
    budget: float = 60.0,
    prove: bool = True,
    limits: Limits | None = None,
    out: str | Path | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> "Watched":
    """Watch the steps of a loop of one's own.

    `parts` are the model (any number of modules) and the optimizers. `policy` is what happens at the first non-finite
    loss, gradient, parameter or running statistic: "stop" raises NonFiniteError with the report, "recover" undoes the
    step, intervenes within `limits` and goes on, "observe" explains and changes nothing. `budget` bounds the seconds
    spent on one incident, `prove=False` leaves the experiments out, `out` is a folder for report.json and report.html,
    `on_event` gets a dict for each incident as it happens.

        watched = whynan.watch(model, optimizer)
        for x, y in loader:
            with watched:
                loss = criterion(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        @whynan.watch(model, optimizer)
        def step(x, y): ...

    Raises UsageError where a part is neither a module nor an optimizer, or PyTorch has not been imported.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        raise UsageError("whynan.watch: import torch, and make the model, before watching it")
    for part in parts:
        if not isinstance(part, (torch.nn.Module, torch.optim.Optimizer)):
            raise UsageError(f"whynan.watch takes modules and optimizers, not {type(part).__name__}: {part!r:.60}")
    options = RunOptions(
        out=Path(out).absolute() if out is not None else Path(),
        policy=policy,
        prove=prove,
        budget=budget,
        argv=tuple(sys.argv),
        limits=limits or Limits(),
    )
    return Watched(parts, options, on_event)


class Watched:
    """What `whynan.watch` returns: enter it around each step, or decorate the function that makes a step."""

    def __init__(self, parts: tuple[Any, ...], options: RunOptions, on_event: Callable[[Event], None] | None) -> None:
        self._parts = parts
        self._options = options
        self._on_event = on_event
        self._engine: Engine | None = None
        self._blocks: dict[tuple[Any, int], tuple[Block, Any] | None] = {}
        self._current: list[tuple[Any, Block] | None] = []

    @property
    def report(self) -> Report:
        """Return what has been found so far."""
        return self._running().report()

    def close(self) -> None:
        """Stop watching; the report stays."""
        global _engine
        if self._engine is not None:
            self._engine.close()
            if _engine is self._engine:
                _engine = None

    def _running(self) -> Engine:
        """Return the engine; the latest watch is the one that is at work."""
        global _engine
        if self._engine is None:
            if _engine is not None:
                _engine.close()
            self._engine = _engine = Engine(self._options, self._on_event)
            builtins.__dict__["__whynan_left__"] = LeftBlockError
            known = self._engine.host.known
            torch = sys.modules["torch"]
            names = {f"model{n or ''}": p for n, p in enumerate(self._parts) if isinstance(p, torch.nn.Module)}
            known.meet(names)
            for part in self._parts:
                if isinstance(part, torch.optim.Optimizer):
                    known.add_optimizer(part)
        return self._engine

    # As context manager -------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        engine = self._running()
        frame = sys._getframe(1)
        key = (frame.f_code, frame.f_lineno)
        if key not in self._blocks:
            engine.know(frame.f_code.co_filename)
            block = find_block(frame)
            runnable = block is not None and block.code is not None
            self._blocks[key] = (block, engine.add_site(block.site)) if runnable and block is not None else None
        known = self._blocks[key]
        if known is None or not engine.is_running():
            self._current.append(None)
            return self
        block, site = known
        site.n_passes += 1
        current = engine.host.loops.begin(site, frame)
        current.started = True
        self._current.append((current, block))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        engine = self._running()
        entered = self._current.pop()
        try:
            if entered is None:
                self._stop_if(error)
                return False
            return self._finish(engine, *entered, error)
        except Unwind as unwind:
            self._stop_if(unwind)
            raise

    def _finish(self, engine: Engine, current: Any, block: Block, error: BaseException | None) -> bool:
        """Let the host look at how the block ended; run it again as often as the host wants."""
        host = engine.host
        if error is not None and not host.failed(block.site.index):
            self._stop_if(error)
            return False
        left = error is not None
        while host.run_again(current):
            try:
                block.run(current.frame)
            except LeftBlockError:
                pass
            except BaseException:
                if not host.failed(block.site.index):
                    raise
        return left

    def _stop_if(self, error: BaseException | None) -> None:
        """Whynan's own way out of the user's code becomes an exception that the user can catch."""
        if isinstance(error, Unwind):
            report = self._running().report()
            self.close()
            raise NonFiniteError(report) from None

    # As decorator -------------------------------------------------------------------------------------------------

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Watch each call of a function that makes a step, or that holds a whole training loop."""
        signature = inspect.signature(function)
        names = tuple(signature.parameters)
        source = textwrap.dedent(f"""
            for {", ".join(names) + "," if names else "_"} in (__arguments__,):
                __value__ = __function__(__rebuilt__({", ".join(names)}))
        """)
        filename = f"<whynan.watch of {function.__qualname__}>"
        rewritten = rewrite(source.encode(), filename)
        prepared = False

        @functools.wraps(function)
        def watched(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            nonlocal prepared
            engine = self._running()
            if not engine.is_running():
                return function(*args, **kwargs)
            if not prepared:
                prepared = True
                engine.know(function.__code__.co_filename)
                code = rewritten_code(engine, function.__code__)
                if code is not None:
                    function.__code__ = code
                engine.register(filename, rewritten)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()

            def rebuilt(*values: Any) -> inspect.BoundArguments:
                again = signature.bind(*args, **kwargs)
                again.apply_defaults()
                again.arguments.update(zip(names, values))
                return again

            namespace: dict[str, Any] = {
                "__arguments__": tuple(bound.arguments[name] for name in names) if names else None,
                "__rebuilt__": rebuilt,
                "__function__": lambda given: function(*given.args, **given.kwargs),
                "__value__": None,
            }
            try:
                exec(rewritten.code, namespace)
            except Unwind as unwind:
                self._stop_if(unwind)
                raise
            return cast(_R, namespace["__value__"])

        return watched
