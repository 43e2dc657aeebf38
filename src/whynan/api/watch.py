"""`whynan.watch`: around a step of one's own loop, as context manager or as decorator."""

import builtins
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from whynan.api.block import Block, LeftBlockError, find_block
from whynan.api.engine import Engine, Event, rewritten_code
from whynan.api.report import Report
from whynan.errors import UsageError
from whynan.launch.host import Unwind
from whynan.launch.options import Policy, RunOptions
from whynan.launch.rewrite import rewrite
from whynan.recovery.ladder import Limits

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
