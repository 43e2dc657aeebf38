"""Attached to a MindSpore program: decides that a step is an incident, has it run again, says what comes of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import mindspore as ms
import numpy as np

from whynan.adapters.common.arrays import find_index, kind_of_number, parts_of
from whynan.adapters.common.data.reread import Reader, look_in_data, of_users
from whynan.adapters.common.experiments import Window, find_samples
from whynan.adapters.common.explain import Found, Step, explained, replayed, unexplained
from whynan.adapters.common.loops import Loops, Pass, in_body
from whynan.adapters.common.namespaces import user_arrays
from whynan.adapters.common.positions import calling_frame, source_line
from whynan.adapters.common.run import CommonAdapter, Recovery, Run, Sizes, history_of
from whynan.adapters.mindspore.dispatch import array_of, tensors_in, write
from whynan.adapters.mindspore.experiments import Bench
from whynan.adapters.mindspore.known import learning_rate, measured, optimizer_of, parameters_in, precision_of
from whynan.adapters.mindspore.pipeline import reader_of, rows_in_order
from whynan.adapters.mindspore.replay import (
    Attempt,
    CellClosure,
    Closure,
    LoopClosure,
    Replayer,
    SavedParameters,
    given_to,
    may_train,
)
from whynan.adapters.mindspore.watch import Told, Watch
from whynan.launch import RunOptions
from whynan.launch.host import tell
from whynan.records import Incident, Sample, Symptom
from whynan.records.recording import Stage, What
from whynan.report import Progress

_MAX_COPY = 512 * 2**20
Changed = tuple[What, str] | None
"""What a step has made non-finite apart from loss and gradients: a parameter or a buffer, and its name."""


class MindSporeHost:
    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.run = Run(options, record)
        self.watch = watch = Watch()
        watch.on_loss = self.after_loss
        watch.on_gradients = self.after_gradients
        watch.on_update = self.after_update
        watch.on_compiled = self.after_compiled
        watch.on_validation = self.after_validation
        watch.before_cell = self.before_cell
        watch.after_cell = self.after_graph_step
        self.loops = Loops(lambda: self.run.is_over, self.begun, self.ended, may_train, False)
        self.window = Window()
        self.weights_start: Sizes | None = None
        self.statistics: SavedParameters | None = None
        self.known_bad: set[str] = set()
        self.is_noted = True
        self.rate: float | None = None
        self.recovery: Recovery[SavedParameters] = Recovery()
        self._before_update: SavedParameters | None = None

    # Steps that go well -----------------------------------------------------------------------------------------------

    def begun(self, current: Pass) -> None:
        if self.watch.is_in_model:
            return
        self.is_noted = False
        self._keep_start()

    def ended(self, current: Pass, error: BaseException | None) -> None:
        if error is None and self.is_noted and self.watch.is_in_model == 0:
            self.window.note(LoopClosure(current, self.watch.given))
            self.watch.given = []
            self.loops.active = current
            try:
                self.watch.after_hand()
            finally:
                self.loops.active = None

    def before_cell(self, cell: Any, args: tuple[Any, ...]) -> None:
        """A cell that makes a step is about to be called."""
        if self._loop() is None:
            self._keep_start()

    def _keep_start(self) -> None:
        watch = self.watch
        if self.run.is_over:
            return
        if self.run.options.policy == "recover":
            self._keep_copy()
        if self.weights_start is None and watch.optimizers:
            self.weights_start = measured(watch.trained())
        statistics = watch.statistics()
        self.statistics = SavedParameters(statistics) if statistics else None
        if self.window.wants_start() and (watch.optimizers or watch.weights):
            try:
                held = watch.changeable()
                size = sum(int(p.nbytes) for p in held)
                self.window.begin(size, lambda: SavedParameters(held), self.run.n_steps == 0)
            except Exception as error:
                tell("keeping the state before a step failed", error)
                self.window.is_off = True

    # Recovery ---------------------------------------------------------------------------------------------------------

    def _keep_copy(self) -> None:
        """Make the update of the last step a part of what it was, and keep the state between two steps now and then."""
        if self._before_update is not None:
            for parameter, old in self._before_update.copies:
                write(parameter, old + np.asarray(self.recovery.factor, old.dtype) * (array_of(parameter) - old))
            self._before_update = None
        if not self.watch.optimizers:
            return
        if self.recovery.copies.is_due(self.run.n_steps):
            copy = SavedParameters(self.watch.changeable())
            if copy.n_bytes <= _MAX_COPY:
                self.recovery.copies.add(self.run.n_steps, copy)
        if self.recovery.factor != 1.0:
            self._before_update = SavedParameters(self.watch.trained())

    def _recovered(self, incident: Incident) -> tuple[Incident, bool]:
        """The step has updated nothing; do what is next. Returns whether the run ends with it."""
        can_slow = bool(self.watch.optimizers)
        action, words, copy = self.recovery.choose(self.run.n_steps, incident, self.run.growth.since, can_slow)
        if copy is not None:
            copy.restore()
        self._before_update = None
        return replace(incident, action=words), action == "stop"

    def after_loss(self, told: Told) -> None:
        """A function has been run that is being differentiated."""
        if self.run.is_over:
            return
        self.run.note_loss(told.loss)
        if told.loss_bad:
            self.incident(told, self.statistics)

    def after_gradients(self, told: Told, optimizer: Any) -> None:
        """An optimizer is about to use gradients, or a gradient function without one has returned."""
        if self.run.is_over:
            return
        self.run.history.grad_norm.append(told.grad_norm)
        self.run.trail.note(self.run.n_steps, "grad_norm", told.grad_norms)
        if optimizer is not None and self.run.n_steps % 16 == 0:
            self.rate = learning_rate(optimizer)
        if self.rate is not None:
            self.run.history.lr.append(self.rate)
        current = self._loop() if optimizer is None else None
        if current is not None:
            self.watch.held = parameters_in({**current.frame.f_globals, **current.frame.f_locals}.values())
        if told.gradient_bad:
            self.incident(told, self.statistics)
            return
        if self._has_bad_statistic():
            return
        self.is_noted = True
        if self.watch.cell is not None and self._loop() is None:
            self.window.note(CellClosure(*self.watch.cell))
        self.run.n_steps += 1

    def _has_bad_statistic(self) -> bool:
        """A running statistic may be lost for good while loss and gradients are finite."""
        bad = self.watch.bad_statistic()
        if bad is None or self.statistics is None or str(bad.name) in self.known_bad:
            return False
        self.known_bad.add(str(bad.name))
        self.incident(Told(loss=self.watch.told.loss), self.statistics, str(bad.name), "buffer")
        return True

    def after_update(self, parameter: Any) -> None:
        """An update has made a parameter non-finite."""
        if self.run.is_over:
            return
        self.run.n_steps = max(self.run.n_steps - 1, 0)
        if self.window.steps and self.watch.cell is not None and self._loop() is None:
            self.window.steps.pop()
        self.is_noted = False
        self.incident(Told(loss=self.watch.told.loss), self.watch.before, str(parameter.name))

    def after_compiled(self, told: Told, executor: Any) -> None:
        """A compiled function of the user's has returned a loss."""
        if self.run.is_over:
            return
        self.run.note_loss(told.loss)
        if told.loss_bad:
            self.incident(told, self.watch.before)
            return
        self.is_noted = True
        if self.watch.cell is None and executor.fn.__name__ != "after_grad":
            self.run.n_steps += 1

    def after_graph_step(self, cell: Any, args: tuple[Any, ...], told: Told | None) -> None:
        """A cell that makes a step has run as a graph."""
        if self.run.is_over or told is None:
            return
        self.run.note_loss(told.loss)
        self.run.history.grad_norm.append(told.grad_norm)
        self.run.trail.note(self.run.n_steps, "grad_norm", told.grad_norms)
        self.watch.given = given_to(cell, args)
        if told.is_bad:
            self.incident(told, self.statistics if self.watch.guards.of(cell) is not None else self.watch.before)
            return
        if self._has_bad_statistic():
            return
        if self._loop() is None:
            self.window.note(CellClosure(cell, args))
        self.is_noted = True
        self.run.n_steps += 1

    def after_validation(self, loss: float, closure: CellClosure | None) -> None:
        """A loss that nothing is trained with is not finite; without a closure the script's own loop has read it."""
        if self.run.is_over or (closure is None and (self.run.incidents or self.watch.is_in_model)):
            return  # a step that has failed is told already: its loss may be read after it
        current = self._loop()
        found: Closure | None = closure
        if closure is None and current is not None:
            found = LoopClosure(current, None, stage="validation")
        self.incident(Told(loss_bad=True, loss=loss), None, closure=found, stage="validation")

    # An incident ------------------------------------------------------------------------------------------------------

    def _loop(self) -> Pass | None:
        """Return the iteration of the user's own loop that the step is part of."""
        current = self.loops.active
        return current if current is not None and not self.watch.is_in_model and in_body(current) else None

    def _closure(self) -> Closure | None:
        current = self._loop()
        if current is not None:
            return LoopClosure(current, self.watch.given)
        if self.watch.cell is not None:
            return CellClosure(*self.watch.cell)
        return None

    def incident(self, told: Told, before: SavedParameters | None, parameter: str | None = None,
                 what: What = "parameter", closure: Closure | None = None, stage: Stage = "train") -> None:  # fmt: skip
        """Explain the failing step; raises where the run ends here. `before` is what the step has already changed."""
        policy = self.run.options.policy
        closure = closure if stage == "validation" else self._closure()
        self.loops.is_replaying = True
        now = SavedParameters(self.watch.changeable()) if policy == "observe" else None
        changed = (what, parameter) if parameter is not None else None
        try:
            incident = self._explained(closure, told, before, changed, stage)
        except Exception as error:
            tell("explaining a step failed", error)
            incident = unexplained(self.run, self._symptom(told, changed, stage), "mindspore", error)
        finally:
            self.loops.is_replaying = False
            self.watch.depth = 0
        if policy == "observe":
            self.watch.is_enabled = False
            if now is not None:
                now.restore()
        elif before is not None:
            before.restore()
        is_last = False
        if policy == "recover" and stage == "train":
            incident, is_last = self._recovered(incident)
        self.run.take(incident, is_last)
        # The run goes on: what is left of this step updates nothing.
        self.watch.withholds = told.loss_bad and policy == "recover" and stage == "train"

    def _symptom(self, told: Told, changed: Changed, stage: Stage) -> Symptom:
        what: What = changed[0] if changed is not None else "loss" if told.loss_bad else "gradient"
        name = changed[1] if changed is not None else "loss" if told.loss_bad else told.gradient
        kind = kind_of_number(told.loss) if told.loss_bad else "nan"
        is_counted = stage == "validation" and self.watch.n_validated
        step = self.watch.n_validated - 1 if is_counted else self.run.n_steps
        detail = "as the step itself told" if stage == "train" else "a loss that nothing is trained with"
        return Symptom(what, name, kind, step, self.watch.epoch(), stage, detail)

    def _explained(
        self, closure: Closure | None, told: Told, before: SavedParameters | None, changed: Changed, stage: Stage
    ) -> Incident:
        if closure is None:
            symptom = self._symptom(told, changed, stage)
            return unexplained(self.run, symptom, "mindspore", "no loop of the script's holds it")
        deadline = self.run.deadline()
        with Progress() as progress:
            progress.stage(f"step {self.run.n_steps} is not finite; running it again")
            replayer = Replayer(self.watch, closure, before)
            roots = self.watch.known_roots()
            traced = replayer.traced(roots)
            for _ in range(2):
                if traced.is_finite and traced.error is None:
                    traced = replayer.traced(roots)
            # Training goes well where a validation loss is bad: no other steps are tried.
            window = self.window if stage == "train" else Window()
            return explained(
                self.run,
                self._step(closure, told, traced, changed),
                traced.is_finite,
                lambda: self._samples(closure, replayer, traced, deadline),
                lambda step: look_in_data(step, self._readers, deadline),
                lambda: Bench(replayer, window, deadline),
                deadline,
                progress,
            )

    def _step(self, closure: Closure, told: Told, traced: Attempt, changed: Changed) -> Step:
        tracer = traced.tracer
        assert tracer is not None
        symptom = self._symptom(told, changed, closure.stage)
        if traced.what is not None:
            symptom = replace(symptom, what=traced.what, name=traced.name, value=traced.kind)
        now = measured(self.watch.trained())
        line = source_line(calling_frame())
        optimizer = optimizer_of(self.watch)
        if (
            symptom.what == "parameter"
            and isinstance(closure, CellClosure)
            and optimizer is not None
            and optimizer.source
        ):
            line = optimizer.source
        return Step(
            symptom=symptom,
            replay=replayed(traced.is_finite, traced.error, "run again, operation by operation, the step is finite"),
            framework="mindspore",
            graph=tracer.graph,
            starts=tuple(traced.starts),
            loss=traced.loss_value,
            parts=closure.parts,
            history=history_of(self.run, now, self.weights_start or now),
            optimizer=optimizer,
            precision=precision_of(self.watch, tracer.dtypes),
            line=line,
            loss_function=tracer.loss_call[0] if tracer.loss_call is not None else None,
            loss_inputs=tracer.loss_call[1] if tracer.loss_call is not None else (),
        )

    def _samples(self, closure: Closure, replayer: Replayer, traced: Attempt, deadline: float) -> Found:
        parts, size = closure.samples, closure.size
        if size is None or size < 2:
            return self._told_by_elements(closure, traced), None
        assert traced.tracer is not None
        symptom = (traced.tracer.graph, traced.starts)
        fails = lambda rows: replayer.fails(closure.with_rows(rows))  # noqa: E731
        return find_samples(parts, size, symptom, fails, lambda: self._sources(closure), deadline)

    def _told_by_elements(self, closure: Closure, traced: Attempt) -> tuple[Sample, ...]:
        """Return the one row that the origin's bad elements lie in, of a batch that the loop's own body made."""
        tracer = traced.tracer
        found = tracer.graph.slice(traced.starts) if tracer is not None else None
        origin = found.origin if found is not None else None
        rows = {element[0] for element in origin.elements if element} if origin is not None else set()
        if tracer is None or origin is None or len(rows) != 1 or origin.phase == "optimizer":
            return ()  # an update's rows are a weight's
        size = origin.output.shape[0] if origin.output is not None and origin.output.shape else 0
        made_outside = [tensor for value, tensor in tracer.tensors.items()
                        if value not in tracer.graph.producer and not isinstance(tensor, ms.Parameter)
                        and len(tensor.shape) > 0 and tensor.shape[0] == size]  # fmt: skip
        parts = parts_of([(f"batch {k}", array_of(tensor)) for k, tensor in enumerate(made_outside)])
        row = rows.pop()
        if size < 2 or not parts:
            return ()
        why = f"the elements that {origin.name} makes non-finite lie in this row alone"
        return (Sample(row, find_index(parts, row, self._sources(closure)), None, why),)

    def _readers(self) -> Iterator[Reader]:
        """Yield what the batch may have been read from, to be read again."""
        for dataset in self.watch.datasets:
            reader = reader_of(dataset)
            if reader is not None:
                yield reader
        yield from of_users()

    def _sources(self, closure: Closure) -> list[Any]:
        """Return what a sample may have come from: the rows of pipelines, arrays of the script's."""
        found = []
        bound = closure.current.owner.site.assigned if isinstance(closure, LoopClosure) else frozenset()
        own = {id(tensor) for _, value in closure.inputs() for tensor in tensors_in(value)}
        for dataset in self.watch.datasets:
            try:
                rows = rows_in_order(dataset)
            except Exception:
                continue  # a pipeline that can't be copied: then the index stays unknown
            if rows is not None:
                found.append(rows)
        # What the loop's body binds is the batch itself, and no source of it.
        return [*found, *user_arrays(lambda name, value: name in bound or any(id(t) in own for t in tensors_in(value)))]


class MindSporeAdapter(CommonAdapter):
    framework = "mindspore"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = MindSporeHost(options, record)
        super().__init__(self.host.run, self.host.loops, self.host.watch)

    def versions(self) -> dict[str, str]:
        return {"mindspore": str(ms.__version__)}

    def device(self) -> str | None:
        return str(ms.get_context("device_target")).lower()
