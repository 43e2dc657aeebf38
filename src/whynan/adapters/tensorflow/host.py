"""Attached to TensorFlow: decides that a step is an incident, has it run again, and says what comes of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import tensorflow as tf

from whynan.adapters.common.arrays import batch_size, kind_of_number, summarize, to_numpy
from whynan.adapters.common.data.reread import Reader, look_in_data, of_users, repeated
from whynan.adapters.common.experiments import SECONDS, Window, find_samples
from whynan.adapters.common.explain import Found, Step, explained, replayed, unexplained
from whynan.adapters.common.loops import Loops, Pass, in_body
from whynan.adapters.common.namespaces import user_arrays, user_values
from whynan.adapters.common.positions import calling_frame, source_line
from whynan.adapters.common.run import FULL_ORDER, CommonAdapter, Recovery, Run, Sizes, attached, history_of, measure
from whynan.adapters.tensorflow.closure import (
    Closure,
    Draws,
    FitClosure,
    FunctionClosure,
    LoopClosure,
    SavedVariables,
    has_tape,
    n_bytes_of,
)
from whynan.adapters.tensorflow.experiments import (
    Bench,
    learning_rate,
    optimizer_in,
    optimizer_of,
    precision_of,
    weights,
)
from whynan.adapters.tensorflow.flags import Told
from whynan.adapters.tensorflow.replay import Attempt, Replayer, mapped
from whynan.adapters.tensorflow.watch import Watch
from whynan.launch import RunOptions
from whynan.launch.host import tell
from whynan.records import Incident, Stage, Symptom, What
from whynan.recovery import Limits
from whynan.report import Progress

_LOSSES = {"kl_divergence": "kl_div"}
"""Losses whose name causes know another one of."""
_MAX_COPY = 512 * 2**20
_DETAIL = {"train": "as the step itself told", "validation": "the loss of a validation batch"}
Hooks = Callable[[Attempt, ExitStack], None]


class TensorFlowHost:
    """The adapter's host. Keras' side calls `after_step`, tapes and functions come through the watch."""

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.run = Run(options, record)
        self.watch = Watch()
        self.watch.on_function = self.after_function
        self.hooks: Hooks = lambda attempt, stack: None
        self.sources: Callable[[], list[Any]] = list
        self.given: Callable[[], list[Any]] = list
        self.epoch: Callable[[], int | None] = lambda: None
        self.is_in_fit: Callable[[], bool] = lambda: False
        self.weights_start: Sizes | None = None
        self.places: Any = None
        self.window = Window()
        self.recovery: Recovery[list[tuple[Any, Any]]] = Recovery(Limits(order=FULL_ORDER))
        self._before_update: list[tuple[Any, Any]] = []
        self.watch.recovers = options.policy == "recover"
        self.watch.before_function = self.before_step
        self.watch.on_eager = self.after_tape
        self.watch.on_late = self.after_apply
        self.watch.on_validation = self.after_validation
        self.watch.on_made = self._made
        self.rate: float | None = None
        self.loops = Loops(lambda: self.run.is_over, self.begun, self.ended, has_tape, False)

    # Eager loops ------------------------------------------------------------------------------------------------------

    def begun(self, current: Pass) -> None:
        known = self.watch.known_variables()
        current.before.random = Draws(current.before.random)
        self.watch.left_out.replace_in_header(current)
        if self.watch.is_eager_loop:
            self._keep_before_update()
        if self.watch.is_eager_loop and known and self.window.wants_start():
            self._begin_window(LoopClosure(current, known))

    def ended(self, current: Pass, error: BaseException | None) -> None:
        if error is None:
            self._slow()

    def after_tape(self, told: Told, named: list[tuple[str, Any]], target: Any) -> bool:
        """A tape has given gradients, outside of any function; returns whether updates are to be withheld."""
        if self.run.is_over or self.is_in_fit():
            return told.is_bad
        self.watch.is_eager_loop = True
        self._note(told, next(iter(self.watch.known_optimizers()), None))
        current = self.loops.active
        if told.is_bad:
            self.eager_incident(current, told)
            self.run.n_steps += 1
            return True
        self._keep_copy([(str(i), v) for i, v in enumerate(self.watch.known_state())])
        self.run.n_steps += 1
        return False

    def _note(self, told: Told, optimizer: Any) -> None:
        """Append a step's values to the history; the learning rate is asked for now and then."""
        self.run.note_loss(told.loss)
        self.run.history.grad_norm.append(told.grad_norm)
        if optimizer is not None and self.run.n_steps % 16 == 0:
            self.rate = learning_rate(optimizer)
        if self.rate is not None:
            self.run.history.lr.append(self.rate)
        self.run.history.ended_step()

    def after_apply(self, told: Told, named: list[tuple[str, Any]], target: Any) -> None:
        """An update gets bad gradients that the script has looked at itself."""
        self.run.n_steps = max(self.run.n_steps - 1, 0)
        self.after_tape(told, named, target)

    def eager_incident(self, current: Pass | None, told: Told) -> None:
        """The update has not been made yet: weights are those from before the step."""
        if current is None or not in_body(current):
            self.run.take(self._unexplained(None, told, None))
            return
        self.loops.is_replaying = True
        guard, self.watch.has_guard = self.watch.has_guard, True
        try:
            self.incident(LoopClosure(current, self.watch.known_state()), told)
        finally:
            self.loops.is_replaying = False
            self.watch.has_guard = guard

    # Functions and fit ------------------------------------------------------------------------------------------------

    def before_step(self, closure: Closure) -> None:
        """A training step is about to run: keep the state before it now and then."""
        self._keep_before_update()
        if self.window.wants_start() and not self.run.is_over:
            try:
                self._begin_window(closure)
            except Exception as error:
                tell("keeping the state before a step failed", error)

    def _begin_window(self, closure: Closure) -> None:
        held = [(name, v) for name, v in closure.variables() if v.dtype.is_numpy_compatible]
        self.window.begin(n_bytes_of(held), lambda: SavedVariables(held), self.run.n_steps == 0)

    def _made(self, variable: Any, value: Any) -> None:
        """A step has made a variable, or asks for it first: the window begins with what it is now."""
        start = self.window.start
        held = start.copies if isinstance(start, SavedVariables) and self.window.from_beginning else None
        if held is not None and all(known is not variable for known, _ in held):
            held.append((variable, value))

    # Steps that have returned -----------------------------------------------------------------------------------------

    def after_function(self, function: Any, closure: FunctionClosure, told: Told) -> None:
        if self.is_in_fit():
            return
        self._after(closure, told, lambda: closure)

    def after_validation(self, closure: FunctionClosure | None) -> None:
        """A loss that nothing is trained with is not finite; None: it was computed eagerly, in the loop under way."""
        if self.run.is_over or self.is_in_fit() or (closure is None and self.run.incidents):
            return  # a step that has failed is told already: its loss may be read after it
        current = self.loops.active
        if closure is not None:
            self.incident(closure, None)
        elif current is not None and in_body(current):
            found = LoopClosure(current, self.watch.known_state())
            found.stage = "validation"
            self.loops.is_replaying = True
            try:
                self.incident(found, None)
            finally:
                self.loops.is_replaying = False
        else:
            self.run.take(self._unexplained(None, None, None, "validation"))

    def after_fit_step(self, closure: Closure, told: Told | None) -> None:
        self._after(closure, told, lambda: closure)

    def _after(self, closure: Closure, told: Told | None, make: Callable[[], Closure]) -> None:
        if self.run.is_over or told is None:
            return
        if self.weights_start is None:
            self._remember_start(closure)
        self._note(told, optimizer_in(closure))
        if self.run.n_steps == 0 and isinstance(self.window.start, SavedVariables):
            # A function's variables are known when it has been traced.
            self.window.start.add(self.watch.before)
        if told.is_bad:
            self.incident(closure, told)
        else:
            self.window.note(closure)
            self._slow()
            self._keep_copy(None if not self._wants_copy() else closure.variables())
        self.run.n_steps += 1

    # Recovery ---------------------------------------------------------------------------------------------------------

    def _wants_copy(self) -> bool:
        return self.run.options.policy == "recover" and self.recovery.copies.is_due(self.run.n_steps)

    def _keep_copy(self, variables: list[tuple[str, Any]] | None) -> None:
        """Keep the state between two steps, to go back to."""
        if variables is None or not self._wants_copy():
            return
        held = [(name, v) for name, v in variables if v.dtype.is_numpy_compatible]
        if n_bytes_of(held) <= _MAX_COPY:
            self.recovery.copies.add(self.run.n_steps, SavedVariables(held).copies)

    def _keep_before_update(self) -> None:
        if self.recovery.factor != 1.0 and not self.run.is_over:
            self._before_update = [(v, v.read_value()) for v in self.watch.known_variables()]

    def _slow(self) -> None:
        """Make the update of the step that has run a part of what it is."""
        for variable, old in self._before_update:
            variable.assign(old + tf.cast(self.recovery.factor, old.dtype) * (variable.read_value() - old))
        self._before_update = []

    def _recovered(self, closure: Closure, incident: Incident) -> tuple[Incident, bool]:
        """The step has updated nothing; do what is next. Returns whether the run ends with it."""
        # What a body cuts out of arrays itself can't be replaced.
        parts = () if getattr(closure, "picks", None) is not None else closure.parts
        action, words, copy = self.recovery.choose(
            self.run.n_steps, incident, self.run.growth.since, can_drop=bool(parts)
        )
        if action == "drop-sample":
            self.watch.left_out.add(parts, incident.samples)
        elif action == "clip-gradients" and self.recovery.clip_norm is not None:
            self.watch.limit_gradients(self.recovery.clip_norm)
        for variable, value in copy or ():
            variable.assign(value)
        self._before_update = []
        return replace(incident, action=words), action == "stop"

    def _remember_start(self, closure: Closure) -> None:
        """Measure the weights once, near their start: after the first step."""
        self.weights_start = measure(weights(closure.variables()))

    # An incident ------------------------------------------------------------------------------------------------------

    def incident(self, closure: Closure, told: Told | None) -> None:
        """Explain the failing step; raises `Unwind` where the run ends here."""
        policy = self.run.options.policy
        try:
            found = self._on_failing_replica(closure) if self.watch.n_replicas > 1 else closure
            incident = self._explained(found, told) if found is not None else self._unexplained(closure, told, None)
        except Exception as error:
            tell("explaining a step failed", error)
            incident = self._unexplained(closure, told, error)
        if not self.watch.has_guard:
            self.watch.restore_before()
        self.watch.flags.clear()
        if policy == "observe":
            self.watch.is_enabled = False
        is_last = False
        if policy == "recover" and closure.stage == "train":
            incident, is_last = self._recovered(closure, incident)
        self.run.take(incident, is_last)

    def _on_failing_replica(self, closure: Closure) -> Closure | None:
        """Return the step of the first replica on which it fails when it is run again alone, None where none does."""
        self.watch.restore_before()
        if not isinstance(closure, FunctionClosure):
            return None
        steps = map(closure.on_replica, range(self.watch.n_replicas))
        return next((one for one in steps if Replayer(self.watch, one, self.hooks).fails()), None)

    def first_failing(self, closures: list[Closure]) -> Closure:
        """Return the first of several steps that fails when it is run again; the last where none does."""
        for closure in closures[:-1]:
            if Replayer(self.watch, closure, self.hooks).fails():
                return closure
        return closures[-1]

    def _unexplained(
        self, closure: Closure | None, told: Told | None, error: Exception | None, stage: Stage = "train"
    ) -> Incident:
        symptom = self._symptom_without_replay(closure, told, stage)
        why = (
            f"a step on {self.watch.n_replicas} replicas that could not be run again on one, its update not withheld"
            if self.watch.n_replicas > 1
            else "no loop of the script's holds it"
        )
        return unexplained(self.run, symptom, _framework(closure), error or why)

    def _symptom_without_replay(
        self, closure: Closure | None, told: Told | None, of_no_closure: Stage = "train"
    ) -> Symptom:
        is_loss = told is None or told.loss_bad
        kind = kind_of_number(told.loss) if told is not None and is_loss else "nan"
        what: What = "loss" if is_loss else "gradient"
        stage: Stage = closure.stage if closure is not None else of_no_closure
        return Symptom(what, what, kind, self.run.n_steps, self.epoch(), stage, _DETAIL[stage])

    def _explained(self, closure: Closure, told: Told | None) -> Incident:
        deadline = self.run.deadline()
        if not self.watch.has_guard and closure.stage == "train":
            self.watch.restore_before()
        with Progress() as progress:
            progress.stage(f"step {self.run.n_steps} is not finite; running it again")
            if isinstance(closure, LoopClosure):
                closure = closure.with_picks(lambda c: Replayer(self.watch, c, self.hooks).run(Attempt(), c))
            failing = Replayer(self.watch, closure, self.hooks)
            n_held = len(self.window.steps)
            replayer = self._looked_back(failing, deadline) or failing
            closure = replayer.closure
            traced = replayer.traced()
            if traced.is_finite:
                traced = replayer.traced()
            step = self._step(closure, told, traced, replayer)
            if replayer is not failing:
                at = self.run.n_steps - (n_held - len(self.window.steps))
                detail = f"what its update left; noticed by the loss of step {self.run.n_steps}"
                step = replace(step, symptom=replace(step.symptom, step=at, detail=detail))
            incident = explained(
                self.run,
                step,
                traced.is_finite,
                lambda: self._samples(closure, replayer, traced, deadline),
                lambda step: look_in_data(step, self._readers, deadline),
                lambda: Bench(replayer, self.window, deadline),
                deadline,
                progress,
            )
            if replayer is not failing and self.run.options.policy == "stop":
                action = "stopped; this update was made: go back to a checkpoint from before it"
                incident = replace(incident, action=action)
            if self.run.options.policy == "observe":
                failing.saved.restore()
            return incident

    def _looked_back(self, failing: Replayer, deadline: float) -> Replayer | None:
        """Return the step whose update made the weights bad that the failing one began with; the window ends there.

        Only losses and gradients are looked at in the run: a bad update shows in the step after it.
        """
        if self.window.start is None or failing.closure.stage != "train" or failing.began_finite():
            return None
        stop = min(deadline, time.monotonic() + SECONDS)
        Bench(failing, self.window, deadline).rewind()
        for n, closure in enumerate(self.window.steps):
            found = Replayer(self.watch, closure, self.hooks)
            if not found.run(Attempt(), is_restored=False).is_finite:
                found.saved.restore()
                while len(self.window.steps) > n:
                    self.window.steps.pop()
                return found
            if time.monotonic() > stop:
                break
        failing.saved.restore()
        return None

    def _step(self, closure: Closure, told: Told | None, traced: Attempt, replayer: Replayer) -> Step:
        tracer = traced.tracer
        assert tracer is not None
        tracer.graph.batch = closure.parts
        symptom = self._symptom_without_replay(closure, told)
        if traced.what is not None:
            symptom = replace(symptom, what=traced.what, name=traced.name, value=traced.kind)
        otherwise = "run eagerly, operation by operation, the step is finite; as the compiled graph it was not"
        loss_call = traced.loss_call
        now = measure(weights(replayer.variables))
        return Step(
            symptom=symptom,
            replay=replayed(traced.is_finite, traced.error, otherwise),
            framework=_framework(closure),
            graph=tracer.graph,
            starts=tuple(traced.starts),
            loss=int(traced.loss._id) if traced.loss is not None and hasattr(traced.loss, "_id") else None,
            parts=closure.parts,
            history=history_of(self.run, now, self.weights_start or now),
            optimizer=optimizer_of(closure, self.places),
            precision=precision_of(closure, traced),
            line=source_line(calling_frame()),
            loss_function=_LOSSES.get(loss_call[0], loss_call[0]) if loss_call else None,
            loss_inputs=tuple(summarize(a) for t in loss_call[1:] if (a := to_numpy(t)) is not None)
            if loss_call
            else (),
            notes=[
                f"run again on replica {closure.replica} of {self.watch.n_replicas} alone, with its part of the batch"
            ]
            if closure.replica is not None
            else [],
        )

    def _samples(self, closure: Closure, replayer: Replayer, traced: Attempt, deadline: float) -> Found:
        parts = closure.parts
        size = batch_size(parts)
        if size is None or size < 2:
            return (), None
        assert traced.tracer is not None
        symptom = (traced.tracer.graph, traced.starts)
        fails = lambda rows: replayer.fails(closure.with_rows(rows))  # noqa: E731
        found, note = find_samples(parts, size, symptom, fails, lambda: self._sources(size), deadline)
        if isinstance(closure, LoopClosure) and closure.picks is not None:
            picks = closure.picks
            found = tuple(replace(s, index=s.index if (i := picks.index_of(s.position or 0)) is None else i)
                          for s in found)  # fmt: skip
        return found, note

    def _sources(self, size: int) -> list[Any]:
        return [*self.sources(), *self._dataset_arrays(), *user_arrays(batch_size=size)]

    def _readers(self) -> Iterator[Reader]:
        """Yield what the batch may have been read from, to be read again."""
        for generator in self.watch.generators:
            yield repeated(generator, True)
        for dataset in [*self.given(), *user_values()]:
            if isinstance(dataset, tf.data.Dataset):
                yield from mapped(dataset, lambda: [*self._dataset_arrays(), *user_arrays()])
        yield from of_users(self.given())

    def _dataset_arrays(self) -> list[Any]:
        found = []
        for ref in self.watch.datasets:
            dataset = ref()
            tensors = getattr(dataset, "_tensors", None)
            if tensors is not None:
                found.append(tuple(a for t in tensors if (a := to_numpy(t)) is not None))
        return found


def _framework(closure: Closure | None) -> str:
    return "keras" if isinstance(closure, FitClosure) else "tensorflow"


class TensorFlowAdapter(CommonAdapter):
    """TensorFlow's side of a watched run, with Keras on top of it where the program imports that."""

    framework = "tensorflow"

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.host = TensorFlowHost(options, record)
        super().__init__(self.host.run, self.host.loops, self.host.watch)
        self.keras: Any = None

    def attach_keras(self, keras: Any) -> None:
        """Called when the program has imported Keras with this backend."""
        if self.keras is None and not self.run.is_over:
            from whynan.adapters.keras.tensorflow import KerasOnTensorFlow

            self.keras = attached(KerasOnTensorFlow, self.host, keras)

    def versions(self) -> dict[str, str]:
        return {"tensorflow": tf.__version__} | ({"keras": self.keras.version} if self.keras is not None else {})

    def device(self) -> str | None:
        return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
