"""One check: the script runs up to its first steps, an adapter records them, and what it has recorded is judged."""

import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from whynan.check.suspects import CheckResult, accepted_reason
from whynan.check.witness import Replayed, Saved
from whynan.errors import WitnessError
from whynan.launch import imports
from whynan.launch.host import Unwind
from whynan.launch.imports import own_imports

Progress = Callable[[str], None]


class TooLong(Unwind):
    """No step has ended within the time that the script was given."""


@dataclass(frozen=True)
class CheckOptions:
    """`steps`: how many iterations are run, 2 at least: the first is looked at, those after it are recorded."""

    script: str
    steps: int = 3
    budget: float = 20.0
    wait: float = 120.0
    search: bool = True
    growth: float = 16.0


class Recording(Protocol):
    """What an adapter offers once it is attached to the program."""

    framework: str

    @property
    def n_iterations(self) -> int: ...

    def detach(self) -> None: ...

    def judge(self, options: CheckOptions, result: CheckResult, progress: Progress, has_raised: bool) -> None:
        """Fill suspects and review of a result. `has_raised`: the program ended by an exception of its own."""

    def replay(self, options: CheckOptions, saved: Saved) -> Replayed:
        """Run a recorded step on a saved witness. Raises WitnessError where it does not fit."""

    def seen(self) -> str:
        """Say in words what was seen of the program, for a check that has nothing to judge."""


@dataclass
class Session:
    options: CheckOptions
    adapters: dict[str, Recording] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    pid: int = field(default_factory=os.getpid)
    refused: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Attach to the frameworks as the program imports them, and set the alarm."""
        imports.when_imported("torch", self._attach_torch)
        imports.when_imported("jax", self._attach_jax)
        imports.when_imported("tensorflow", self._note_tensorflow)
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, self._too_long)
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Begin to count the script's time; once more when a framework has been imported, which takes its own."""
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            # Again each second: what an import or a callback is in the middle of may swallow the first.
            signal.setitimer(signal.ITIMER_REAL, self.options.wait, 1.0)

    def _stop(self) -> None:
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)
        for attached in self.adapters.values():
            attached.detach()

    def _too_long(self, number: int, frame: Any) -> None:
        raise TooLong()

    def _attach_torch(self, module: Any) -> None:
        with own_imports():
            from whynan.adapters.torch.check.judge import TorchRecording

        recording = TorchRecording(self.options.steps)
        recording.attach()
        self.adapters["torch"] = recording
        self._set_alarm()

    def _attach_jax(self, module: Any) -> None:
        with own_imports():
            from whynan.adapters.jax.check.judge import JaxRecording

        recording = JaxRecording(self.options.steps)
        recording.attach()
        self.adapters["jax"] = recording
        self._set_alarm()

    def _note_tensorflow(self, module: Any) -> None:
        self.refused.append("tensorflow")

    def finish(self, error: BaseException | None, progress: Progress) -> CheckResult:
        """Judge what was recorded. `error` is how the program ended."""
        self._stop()
        result = CheckResult(self.options.script)
        has_raised = error is not None and not isinstance(error, (Unwind, SystemExit, KeyboardInterrupt))
        adapter = max(self.adapters.values(), key=lambda a: a.n_iterations, default=None)
        if adapter is not None:
            result.framework = adapter.framework
            result.steps = adapter.n_iterations
            with own_imports(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a search makes of the step is no news of the script
                adapter.judge(self.options, result, progress, has_raised)
        result.problem = self._problem(adapter, error, result)
        self._accept(result)
        result.seconds = time.monotonic() - self.began
        return result

    def replay(self, error: BaseException | None, saved: Saved) -> Replayed:
        """Run a step of the script on a saved witness. Raises WitnessError where that can't be done."""
        self._stop()
        adapter = next((a for a in self.adapters.values() if a.framework == saved.framework), None)
        if adapter is None:
            raise WitnessError(f"the witness is of {saved.framework}, which the script did not import")
        if not adapter.n_iterations:
            raise WitnessError(self._problem(adapter, error, CheckResult(self.options.script)) or adapter.seen())
        try:
            with own_imports(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return adapter.replay(self.options, saved)
        except WitnessError as problem:
            if error is None or isinstance(error, (Unwind, SystemExit)):
                raise
            ended = f"the script ended with {type(error).__name__}: {first_line(error)}"
            raise WitnessError(f"{problem}; {ended}") from None

    def _problem(self, adapter: Recording | None, error: BaseException | None, result: CheckResult) -> str | None:
        if result.n_nodes:
            if error is not None and not isinstance(error, (Unwind, SystemExit)):
                result.notes.append(f"the script ended with {type(error).__name__}: {first_line(error)}")
            return None
        if isinstance(error, TooLong):
            seen = adapter.seen() if adapter is not None else "no framework was imported"
            return f"no training step ended within {self.options.wait:g} s: {seen}; give it longer with --wait SECONDS"
        if error is not None and not isinstance(error, (Unwind, SystemExit)):
            return f"the script ended before its second step with {type(error).__name__}: {first_line(error)}"
        if adapter is None:
            if self.refused:
                return (
                    "the script trains with TensorFlow, whose graphs are not checked; PyTorch and JAX are, "
                    "and Keras on these backends"
                )
            return "the script imported neither PyTorch nor JAX, whose steps can be checked"
        return f"the script ended before its second training step: {adapter.seen()}"

    @staticmethod
    def _accept(result: CheckResult) -> None:
        result.suspects = [replace(s, accepted=accepted_reason(s.place.file, s.place.line)) for s in result.suspects]
        result.review = [
            replace(f, accepted=accepted_reason(f.file, f.line)) if f.file and f.line else f for f in result.review
        ]


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return re.sub(r"\s+", " ", text[0])[:200] if text else ""


def progress_on(stream: Any) -> Progress:
    """Return what says on a terminal what is being done; elsewhere it says nothing."""
    is_live = bool(stream is not None and getattr(stream, "isatty", lambda: False)())

    def say(text: str) -> None:
        if is_live:
            stream.write("\r\x1b[2K" + (f"whynan: {text}" if text else ""))
            stream.flush()

    return say
