"""Loops that live in installed packages: their step function is the iteration, and is called again.

The loop is a text of our own, rewritten like the user's: the machinery of the re-yield does the rest. Its one name
stands for the batch, so that samples can be replaced. States of metrics (torchmetrics) are put back too: they are
neither parameters nor buffers, and every forward pass changes them.

A subclass may override it, so the bound method is wrapped while `train` runs, not the class's.

`install` makes each trainer known as soon as the program imports it; none is imported here.
"""

import functools
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.common.patches import Patches
from whynan.adapters.torch.frames import STEP_PREFIX
from whynan.launch import host as launch_host
from whynan.launch.host import Unwind, tell
from whynan.launch.imports import when_imported
from whynan.launch.rewrite import rewrite

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost


_SOURCE = "for {batch} in (__batch__,):\n    __step__({batch})\n"


class StepClosure:
    """Runs the steps of one trainer. `name` is what reports call the step, `batch` what they call its argument."""

    def __init__(self, host: "TorchHost", name: str, batch: str = "batch") -> None:
        self.host = host
        filename = f"{STEP_PREFIX}{name}>"
        source = _SOURCE.format(batch=batch)
        rewritten = rewrite(source.encode(), filename)
        # Without a modification time the entry stays where `linecache` checks its files.
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        launch_host.register(filename, rewritten.sites)
        self._code = rewritten.code
        self._thread = threading.get_ident()

    def run(
        self,
        step: Callable[[Any], Any],
        batch: Any,
        *,
        skipped: Callable[[], Any] = lambda: None,
        epoch: int | None = None,
    ) -> Any:
        """Return `step(batch)`; where the step was undone by a recovery, what `skipped` returns."""
        host = self.host
        if host.is_over or host.steps_under_way or threading.get_ident() != self._thread:
            return step(batch)
        results: list[Any] = []

        def called(given: Any) -> None:
            results.append(step(given))

        n_undone = host.n_undone
        names = {"__name__": "__whynan_step__", "__batch__": batch, "__step__": called}
        if epoch is not None:
            names["epoch"] = epoch
        host.steps_under_way += 1
        try:
            exec(self._code, names)
        except Unwind:
            if host.stopped is not None and host.is_over:
                raise host.stopped() from None
            raise
        finally:
            host.steps_under_way -= 1
        if host.n_undone > n_undone or not results:
            return skipped()
        # The first call is the run's own; those after it were replays, except where it did not come to its end.
        return results[0]


class MetricStates:
    """Copies of what metrics have summed up so far. Values that are no metrics are passed over."""

    def __init__(self, metrics: Iterable[Any]) -> None:
        torch = sys.modules["torch"]
        self.entries = []
        for metric in metrics:
            if not hasattr(metric, "_defaults"):
                continue
            values = {key: value for key, value in vars(metric).items() if not key.startswith("__")}
            copies = {
                key: value.clone() if isinstance(value, torch.Tensor) else list(value)
                for key, value in values.items()
                if isinstance(value, torch.Tensor) or (isinstance(value, list) and key in metric._defaults)
            }
            plain = {key: value for key, value in values.items() if isinstance(value, (int, float, bool, type(None)))}
            self.entries.append((metric, copies, plain))

    def restore(self) -> None:
        for metric, copies, plain in self.entries:
            vars(metric).update(plain)
            for key, copy in copies.items():
                vars(metric)[key] = list(copy) if isinstance(copy, list) else copy.clone()


def patch_ignite(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let the process function of every engine made from now on be run again; each engine counts by itself."""

    def wrapped(original: Any) -> Any:
        def __init__(engine: Any, process_function: Any) -> None:  # noqa: N807
            original(engine, process_function)
            engine._process_function = repeatable(host, process_function)

        return __init__

    patches.replace(module.Engine, "__init__", wrapped)


def repeatable(host: "TorchHost", original: Any) -> Any:
    closure = StepClosure(host, getattr(original, "__name__", "process_function"))

    @functools.wraps(original)
    def process_function(engine: Any, batch: Any) -> Any:
        return closure.run(lambda given: original(engine, given), batch, epoch=max(engine.state.epoch - 1, 0))

    return process_function


def patch_subprocess(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let Lightning's `ddp` start its other ranks under `whynan run` with this run's options."""
    options = host.options
    if options.script is None and options.module is None:
        return  # a watch in a program of one's own

    def wrapped(original: Any) -> Any:
        def command(*args: Any, **kwargs: Any) -> Any:
            found = original(*args, **kwargs)
            program = list(found[0] if isinstance(found, tuple) else found)
            if program[0] != sys.executable or program[1:3] == ["-m", "whynan"]:
                return found
            watched = [sys.executable, "-m", "whynan", "run", *options.flags(), *program[1:]]
            return (watched, *found[1:]) if isinstance(found, tuple) else watched

        return command

    for name in ("_basic_subprocess_cmd", "_hydra_subprocess_cmd"):
        if hasattr(module, name):
            patches.replace(module, name, wrapped)


def rank_of_environment() -> int:
    """Return this process's number as launchers say it, 0 where none does."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def patch_automatic(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let automatic optimization be run again: closure, backward pass and optimizer step."""
    closure = StepClosure(host, "training_step")

    def wrapped(original: Any) -> Any:
        def run(loop: Any, optimizer: Any, batch_idx: int, kwargs: Any) -> Any:
            if "batch" not in kwargs:  # a step that draws its batches from the iterator itself
                return original(loop, optimizer, batch_idx, kwargs)
            _meet(host, loop.trainer)

            def step(batch: Any) -> Any:
                return original(loop, optimizer, batch_idx, type(kwargs)(kwargs, batch=batch))

            with host.known.also_saving(lambda: _Progress(loop)):
                return closure.run(step, kwargs["batch"], skipped=dict, epoch=loop.trainer.current_epoch)

        return run

    patches.replace(module._AutomaticOptimization, "run", wrapped)


def patch_manual(host: "TorchHost", module: Any, patches: Patches) -> None:
    """Let a `training_step` that calls `backward` and `step` itself be run again."""
    closure = StepClosure(host, "training_step")

    def wrapped(original: Any) -> Any:
        def run(loop: Any, kwargs: Any) -> Any:
            if "batch" not in kwargs:
                return original(loop, kwargs)
            _meet(host, loop.trainer)

            def step(batch: Any) -> Any:
                return original(loop, type(kwargs)(kwargs, batch=batch))

            with host.known.also_saving(lambda: _Progress(loop)):
                return closure.run(step, kwargs["batch"], skipped=dict, epoch=loop.trainer.current_epoch)

        return run

    patches.replace(module._ManualOptimization, "run", wrapped)


def _meet(host: "TorchHost", trainer: Any) -> None:
    host.known.meet({"model": trainer.lightning_module})
    for optimizer in trainer.optimizers:
        host.known.add_optimizer(optimizer)


class _Progress:
    """Lightning's own counts of steps and what has been logged so far, which a replay must not count twice."""

    def __init__(self, loop: Any) -> None:
        self.progress = loop.optim_progress if hasattr(loop, "optim_progress") else loop.optim_step_progress
        self.counts = self.progress.state_dict()
        self.results = getattr(loop.trainer, "_results", None)
        self.logged = dict(self.results) if self.results is not None else {}
        self.metrics = MetricStates(self.logged.values())
        self.others = dict(vars(self.results)) if self.results is not None else {}

    def restore(self) -> None:
        self.progress.load_state_dict(self.counts)
        if self.results is not None:
            for key in [key for key in self.results if key not in self.logged]:
                del self.results[key]
            self.metrics.restore()
            vars(self.results).update(self.others)


def patch_mmengine(host: "TorchHost", module: Any, patches: Patches) -> None:
    closure = StepClosure(host, "train_step", "data")

    def wrapped(original: Any) -> Any:
        def run_iter(loop: Any, *args: Any, **kwargs: Any) -> Any:
            model = loop.runner.model
            own = vars(model).get("train_step")
            if own is None:
                host.known.meet({"model": model})
                vars(model)["train_step"] = _train_step(closure, loop, model.train_step)
            try:
                return original(loop, *args, **kwargs)
            finally:
                if own is None:
                    vars(model).pop("train_step", None)

        return run_iter

    for name in ("EpochBasedTrainLoop", "IterBasedTrainLoop"):
        patches.replace(getattr(module, name), "run_iter", wrapped)


def _train_step(closure: StepClosure, loop: Any, original: Any) -> Any:
    def train_step(data: Any, optim_wrapper: Any) -> Any:
        return closure.run(lambda given: original(given, optim_wrapper), data, skipped=dict, epoch=loop.epoch)

    return train_step


def patch_transformers(host: "TorchHost", module: Any, patches: Patches) -> None:
    closure = StepClosure(host, "training_step", "inputs")

    def wrapped(original: Any) -> Any:
        def _inner_training_loop(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            own = vars(trainer).get("training_step")
            vars(trainer)["training_step"] = _training_step(host, closure, trainer, trainer.training_step)
            try:
                return original(trainer, *args, **kwargs)
            finally:
                if own is None:
                    vars(trainer).pop("training_step", None)
                else:
                    vars(trainer)["training_step"] = own

        return _inner_training_loop

    patches.replace(module.Trainer, "_inner_training_loop", wrapped)


def _training_step(host: "TorchHost", closure: StepClosure, trainer: Any, original: Any) -> Any:
    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        host.known.meet({"model": trainer.model})
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        if isinstance(optimizer, torch.optim.Optimizer):
            host.known.add_optimizer(optimizer)

        def step(batch: Any) -> Any:
            return original(model, batch, *args, **kwargs)

        epoch = trainer.state.epoch
        return closure.run(
            step, inputs, skipped=lambda: _skipped(trainer), epoch=int(epoch) if epoch is not None else None
        )

    return training_step


def _skipped(trainer: Any) -> Any:
    """Return the loss of a step that was undone: NaN where the Trainer puts its average in its place, else 0."""
    hides = bool(trainer.args.logging_nan_inf_filter)
    return torch.tensor(float("nan") if hides else 0.0, device=trainer.args.device)


Patch = Callable[["TorchHost", Any, Patches], None]

_TRAINERS: dict[str, Patch] = {
    "lightning.pytorch.loops.optimization.automatic": patch_automatic,
    "lightning.pytorch.loops.optimization.manual": patch_manual,
    "pytorch_lightning.loops.optimization.automatic": patch_automatic,
    "pytorch_lightning.loops.optimization.manual": patch_manual,
    "lightning.fabric.strategies.launchers.subprocess_script": patch_subprocess,
    "lightning.pytorch.strategies.launchers.subprocess_script": patch_subprocess,
    "lightning_fabric.strategies.launchers.subprocess_script": patch_subprocess,
    "pytorch_lightning.strategies.launchers.subprocess_script": patch_subprocess,
    "transformers.trainer": patch_transformers,
    "ignite.engine.engine": patch_ignite,
    "mmengine.runner.loops": patch_mmengine,
}


def install(host: "TorchHost") -> Patches:
    """Let the steps of trainers be run again, those imported by now and those that will be; returns what to undo."""
    patches = Patches()
    for name, patch in _TRAINERS.items():
        when_imported(name, _patcher(host, name, patch, patches))
    return patches


def _patcher(host: "TorchHost", name: str, patch: Patch, patches: Patches) -> Callable[[Any], None]:
    def imported(module: Any) -> None:
        if host.is_over:
            return
        try:
            patch(host, module, patches)
        except Exception as error:
            tell(f"watching {name} failed", error)

    return imported
