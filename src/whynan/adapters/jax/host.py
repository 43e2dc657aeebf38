"""Decides that a call is an incident, has it run again, and says what comes of it."""

import math
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from whynan.adapters.common.arrays import Part, all_finite, header_parts, kind_of_number, to_numpy
from whynan.adapters.common.data.reread import look_in_data, of_users
from whynan.adapters.common.experiments import find_samples
from whynan.adapters.common.explain import Found, Step, explained, replayed, unexplained
from whynan.adapters.common.loops import Loops, Pass
from whynan.adapters.common.namespaces import user_arrays, user_spaces
from whynan.adapters.common.positions import calling_frame, source_line
from whynan.adapters.common.run import FULL_ORDER, Recovery, Run, history_of, measure
from whynan.adapters.jax.byhand import ByHand, may_update
from whynan.adapters.jax.experiments import Bench, Window, optimizer_of, parameters, precision_of
from whynan.adapters.jax.replay import Call, Runner, Traced, trace_call
from whynan.adapters.jax.shards import Hosts
from whynan.adapters.jax.watch import Watch
from whynan.launch import RunOptions
from whynan.launch.host import COLD, set_site, tell
from whynan.records import Incident, Symptom
from whynan.recovery import Limits
from whynan.report import Progress

_OF_OPTIMIZER = re.compile(r"opt|\.mu\b|\.nu\b|\.trace\b|momentum|moment", re.IGNORECASE)
_LEARNING_PASSES = 3
_MAX_COPY = 512 * 2**20
Layer = tuple[str, str, Any]


class JaxHost:
    """The adapter's host. Keras' side sets `layers`, which marks layers while a step is traced."""

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.run = Run(options, record)
        self.watch = Watch(self.on_bad, self.on_good)
        self.watch.synchronous = options.policy == "recover"
        self.first: Call | None = None
        self.window = Window()
        self.keras: Any = None
        self.hosts = Hosts()
        self.recovery: Recovery[dict[Any, Any]] = Recovery(Limits(order=FULL_ORDER))
        self.watch.adjust = self._slowed
        self.by_hand = ByHand(self.run)
        self.by_hand.is_always_looking = self.watch.synchronous
        begun = self.watch.left_out.replace_in_header
        self.loops = Loops(lambda: self.run.is_over, begun, self.ended, may_update, False)
        self.n_gradients = self.n_compiled = 0
        self.at_update: dict[Any, Any] | None = None
        """What the next update is to give, where it is compiled apart from the gradients."""
        self.at_end: Incident | None = None
        self.is_ending = False

    # Loops that update by hand ----------------------------------------------------------------------------------------

    def ended(self, current: Pass, error: BaseException | None) -> None:
        """An iteration has ended whose loop may make its updates itself."""
        made, self.n_gradients = self.watch.n_gradients > self.n_gradients, self.watch.n_gradients
        if error is not None or not made or not self.watch.is_enabled:
            return
        site = current.owner
        try:
            if site.n_passes <= _LEARNING_PASSES:
                outputs = {id(leaf) for call in self.watch.calls for leaf in call.outputs}
                self.n_compiled += self.by_hand.is_compiled(current, outputs)
                if self.n_compiled >= _LEARNING_PASSES:
                    set_site(site.site.index, COLD)
                    return
            self.by_hand.note_given(current, {id(leaf) for leaf in self.watch.calls[-1].leaves})
            found = self.by_hand.bad_after(current)
            if found is None and self.run.options.policy == "recover":
                self.by_hand.slow(current, self.recovery.factor)
                if self.recovery.copies.is_due(self.run.n_steps):
                    self.recovery.copies.add(self.run.n_steps, self.by_hand.kept(current))
        except Exception as failure:
            tell("looking at an update failed", failure)
            self.loops.may_train = lambda site: False
            return
        if found is None:
            return
        self.watch.settle()  # a call may have given them: then that is the incident
        if self.watch.is_enabled and not self.run.is_over:
            self._by_hand(*found)

    def _by_hand(self, one: Pass, n_since: int, bad: tuple[str, Any]) -> bool:
        """Explain an iteration that has made a parameter NaN itself; returns whether that was done."""
        self.run.n_steps = max(self.run.n_steps - 1 - n_since, 0)
        self.watch.is_replaying = self.loops.is_replaying = True
        try:
            incident = self.by_hand.explained(one, bad)
        except Exception as failure:
            tell("explaining an update failed", failure)
            return False
        finally:
            self.watch.is_replaying = self.loops.is_replaying = False
        if incident is None:
            return False
        policy = self.run.options.policy
        if policy == "observe":
            self.watch.is_enabled = False
        else:
            one.before.restore(one.frame)
            self.by_hand.put_back(one, {name: one.before.values[name] for name in self.by_hand.kept(one)})
        is_last = False
        if policy == "recover":
            incident, is_last = self._recovered_by_hand(one, incident)
        self.run.take(incident, is_last)
        return True

    def _recovered_by_hand(self, one: Pass, incident: Incident) -> tuple[Incident, bool]:
        """The names of the loop hold what they held before the iteration; do what is next."""
        parts = header_parts(one)
        action, words, copy = self.recovery.choose(
            self.run.n_steps, incident, self.run.growth.since, can_drop=bool(parts)
        )
        self._last_for_all(action, parts, incident)
        if copy is not None:
            self.by_hand.put_back(one, copy)
        self.run.n_steps += 1
        return replace(incident, action=words), action == "stop"

    def _last_for_all(self, action: str, parts: Sequence[Part], incident: Incident) -> None:
        """Do what an intervention changes for the rest of the run."""
        if action == "drop-sample":
            self.watch.left_out.add(parts, incident.samples)
        elif action == "clip-gradients" and self.recovery.clip_norm is not None:
            self.watch.limit_gradients(self.recovery.clip_norm)

    # Calls ------------------------------------------------------------------------------------------------------------

    def on_good(self, call: Call) -> None:
        if not call.is_training:
            return
        if self.run.options.policy == "recover" and self.recovery.copies.is_due(self.run.n_steps):
            places = self._pairs(call)
            if places and sum(int(getattr(call.leaves[i], "nbytes", 0)) for i in places) <= _MAX_COPY:
                self.recovery.copies.add(self.run.n_steps, {i: call.leaves[i] for i in places})
        if call.is_update:
            return
        if self.first is None:
            self.first = call
        loss = _loss_of(call)
        if loss is not None:
            self.run.note_loss(loss)
            self.run.history.ended_step()
        self.window.note(call, self.run.n_steps == 0)
        call.step = self.run.n_steps
        self.run.n_steps += 1

    def on_bad(self, seen: Call) -> None:
        """A call has returned what is not finite: the guilty one may be an earlier one."""
        active = self.loops.active
        if active is not None and _has_nan([seen.leaves[i] for i in seen.dynamic()]):
            found = self.by_hand.first_bad(active.before.values)
            if found is not None and self._by_hand(*found):
                return
        call = self._guilty(seen)
        if call is None or self._is_asked(call):
            # What is not finite came in that way, or is meant.
            self.on_good(seen)
            return
        if call.is_training and (call is not seen or call.is_update):
            self.run.n_steps = max(self.run.n_steps - 1, 0)
        incident: Incident | None
        try:
            self.watch.is_replaying = True
            incident = self._explained(call)
        except Exception as error:
            tell("explaining a step failed", error)
            incident = unexplained(self.run, self._symptom(call), self._framework(), error)
        finally:
            self.watch.is_replaying = False
        if incident is None:
            self.on_good(seen)
            return
        self._act(call, incident)

    def _is_asked(self, call: Call) -> bool:
        """Whether all that is bad are gradients that the script itself looks at, to skip the step by them."""
        loss = _loss_of(call)
        if not call.is_training or not _returns_gradients(call) or (loss is not None and not math.isfinite(loss)):
            return False
        return self.watch.decides(call)

    def _act(self, call: Call, incident: Incident) -> None:
        if self.run.options.policy == "observe":
            self.watch.is_enabled = False
        if self.run.options.policy == "stop" and call.is_training and self.keras is not None:
            self.keras.put_back(call)
        elif self.run.options.policy == "stop" and call.is_training:
            try:
                self._put_back_names(call)
            except Exception as error:
                tell("putting back what names held before the step failed", error)
        is_last = False
        if self.run.options.policy == "recover" and call.is_training:
            incident, is_last = self._recovered(call, incident)
            self.run.n_steps += 1
        if self.is_ending:
            self.at_end = incident
            return
        self.run.take(incident, is_last)

    def _put_back_names(self, call: Call) -> None:
        """Give the names of the script's module what they held before the failed step. Those of a function can't be
        had at."""
        calls = list(self.watch.calls)
        since = calls[calls.index(call) :] if call in calls else [call]
        before = {id(later.outputs[output]): call.leaves[place] for place, output in self._pairs(call).items()
                  for later in since if later.function is call.function and output < len(later.outputs)}  # fmt: skip
        for space in user_spaces():
            if "__name__" not in space:
                continue
            for name, value in list(space.items()):
                try:
                    leaves, tree = jax.tree_util.tree_flatten(value)
                except Exception:
                    continue  # a dictionary that is no tree of JAX's
                if any(id(leaf) in before for leaf in leaves):
                    space[name] = tree.unflatten([before.get(id(leaf), leaf) for leaf in leaves])

    # Recovery ---------------------------------------------------------------------------------------------------------

    def _recovered(self, call: Call, incident: Incident) -> tuple[Incident, bool]:
        """Undo the step, and do what is next; returns whether the run ends with it."""
        pairs = self._pairs(call)
        current = call.within() if call.within is not None and not pairs and _returns_gradients(call) else None
        parts = call.parts() if call.batch_places() else ()
        can_slow = bool(pairs or current or self.watch.has_update)
        action, words, copy = self.recovery.choose(
            self.run.n_steps, incident, self.run.growth.since, can_slow, bool(parts)
        )
        self._last_for_all(action, parts, incident)
        if pairs:
            for place, output in pairs.items():
                call.outputs[output] = call.leaves[place] if copy is None else copy.get(place, call.leaves[place])
        elif _returns_gradients(call):
            _without_gradients(call)
            if current is not None and copy is not None:
                self.by_hand.put_back(current, copy)
            elif copy is not None:
                self.at_update = copy
            elif action in ("skip-batch", "stop"):
                words = "the gradients of the batch were replaced by zeros, the run goes on"
        else:
            _put_back(call)
        return replace(incident, action=words), action == "stop"

    def _pairs(self, call: Call) -> dict[int, int]:
        """Return which result is an argument's next value, by the argument's place, where that is known."""
        known = self.keras.pairs(call) if self.keras is not None else None
        return known if known is not None else call.carried

    def _slowed(self, call: Call) -> None:
        """Make a step's update of its parameters a part of what it is."""
        call.within = weakref.ref(self.loops.active) if self.loops.active is not None else None
        if call.is_update and self.at_update is not None:
            state, self.at_update = self.at_update, None
            for place, output in self._pairs(call).items():
                call.outputs[output] = state.get(place, call.outputs[output])
            return
        if self.recovery.factor == 1.0 or not call.is_training:
            return
        names = call.names()
        for place, output in self._pairs(call).items():
            old, new = call.leaves[place], call.outputs[output]
            name = names[place]
            is_parameter = not _OF_OPTIMIZER.search(name) and not name.startswith(("state[1]", "state[2]", "state[3]"))
            if is_parameter and np.ndim(old) and np.dtype(getattr(old, "dtype", "O")).kind in "fV":
                call.outputs[output] = old + jax.numpy.asarray(self.recovery.factor, old.dtype) * (new - old)

    def _guilty(self, seen: Call) -> Call | None:
        for call in list(self.watch.calls):
            if not _is_finite(call.of_interest()) and _is_finite([call.leaves[i] for i in call.dynamic()], call):
                return call
            if call is seen:
                break
        # Nothing kept made it out of finite arguments: a bad batch, or a call long gone.
        for call in list(self.watch.calls):
            if call is seen or not _is_finite(call.of_interest()):
                return call
        return None

    # An incident ------------------------------------------------------------------------------------------------------

    @property
    def is_silent(self) -> bool:
        """Whether the first process speaks for this one."""
        return self.hosts.is_joint and jax.process_index() > 0

    def _explained(self, call: Call) -> Incident | None:
        deadline = self.run.deadline()
        with self.hosts.whole(call), Progress(is_silent=self.is_silent) as progress:
            progress.stage(f"step {self.run.n_steps} is not finite; running it again")
            traced = self._trace(call)
            if traced.is_finite and traced.error is None and not call.is_training:
                return None
            call.ignored |= traced.harmless
            if traced.is_finite and traced.error is None and not _has_nan(call.of_interest()):
                return None
            if self._is_asked(call):
                return None
            given = self.keras.given if self.keras is not None else tuple
            return explained(
                self.run,
                self._step(call, traced),
                traced.is_finite,
                lambda: self._samples(call, traced, deadline),
                lambda step: look_in_data(step, lambda: of_users(given()), deadline),
                lambda: self._bench(call, deadline),
                deadline,
                progress,
            )

    def _bench(self, call: Call, deadline: float) -> Bench:
        bench = Bench(self.watch, call, self.window, deadline)
        current = call.within() if call.within is not None else None
        if current is not None and call.line is not None and _returns_gradients(call):
            bench.by_hand = self.by_hand.bench_at(current, call.line[1], deadline)
        return bench

    def _trace(self, call: Call) -> Traced:
        if self.keras is not None:
            return self.keras.traced(call)  # type: ignore[no-any-return]
        return trace_call(call)

    def _step(self, call: Call, traced: Traced) -> Step:
        graph = traced.interpreter.graph
        symptom = self._symptom(call)
        if traced.what is not None:
            symptom = replace(symptom, what=traced.what, name=traced.name, value=traced.kind)
        otherwise = "run again equation by equation the step is finite; compiled it was not"
        notes = []
        if self.watch.dropped_donation:
            notes.append("buffers were not donated while watching: the state before a step has to be kept")
        return Step(
            symptom=symptom,
            replay=replayed(traced.is_finite, None, otherwise),
            framework=self._framework(),
            graph=graph,
            starts=tuple(traced.starts),
            loss=traced.loss,
            parts=call.parts(),
            history=history_of(self.run, *(measure(parameters(c).items()) for c in (call, self.first or call))),
            optimizer=optimizer_of(call, self.keras),
            precision=precision_of(call, traced),
            loss_function=self.keras.loss_function() if self.keras is not None else None,
            line=source_line(calling_frame()),
            labels_out_of_range=_labels_out_of_range(traced, call),
            notes=notes,
        )

    def _symptom(self, call: Call) -> Symptom:
        loss = _loss_of(call)
        step = self.run.n_steps if call.stage == "train" else call.validation_batch
        is_loss = loss is not None and not math.isfinite(loss)
        kind = kind_of_number(loss) if loss is not None and is_loss else "nan"
        detail = "among what the step returned" if call.stage == "train" else "the loss of a validation batch"
        name = "loss" if is_loss else "result"
        return Symptom("loss" if is_loss else "parameter", name, kind, step, call.epoch, call.stage, detail)

    def _framework(self) -> str:
        return "keras" if self.keras is not None and self.keras.epoch() is not None else "jax"

    def _samples(self, call: Call, traced: Traced, deadline: float) -> Found:
        parts, size = call.parts(), call.size_of_batch()
        if size is None or size < 2 or not call.batch_places():
            return (), None
        runner = Runner(call)
        symptom = (traced.interpreter.graph, traced.starts)
        fails = lambda rows: runner.fails(call.with_rows(rows))  # noqa: E731
        found, note = find_samples(parts, size, symptom, fails, lambda: self._sources(size), deadline)
        rows = [sample.position or 0 for sample in found]
        owners = {self.hosts.owner_of(part.array.shape, row) for row in rows for part in parts} - {None}
        if len(owners) == 1:
            note = f"process {owners.pop()} of {jax.process_count()} had it on its devices"
        return found, note

    def _sources(self, size: int) -> list[Any]:
        return [*(self.keras.sources() if self.keras is not None else ()), *user_arrays(batch_size=size)]


def _loss_of(call: Call) -> float | None:
    """Return the value of the loss among the results: the first number that is no counter and no state."""
    paths = jax.tree_util.tree_flatten_with_path(jax.tree_util.tree_unflatten(call.out_tree, call.outputs))[0]
    numbers = [(jax.tree_util.keystr(path), leaf) for path, leaf in paths if np.size(leaf) == 1]
    floats = [(path, leaf) for path, leaf in numbers if np.dtype(getattr(leaf, "dtype", "f4")).kind == "f"]
    named = [leaf for path, leaf in floats if "loss" in path]
    chosen = named[0] if named else floats[0][1] if floats else None
    return float(np.asarray(chosen).reshape(-1)[0]) if chosen is not None else None


def _is_finite(leaves: Sequence[Any], call: Call | None = None) -> bool:
    for leaf in leaves:
        array = to_numpy(leaf)
        if array is not None and not all_finite(array):
            # A mask's infinities come in as data and are meant.
            if call is not None and not bool(np.isnan(array).any()):
                continue
            return False
    return True


def _has_nan(leaves: Sequence[Any]) -> bool:
    arrays = [to_numpy(leaf) for leaf in leaves]
    return any(a is not None and a.dtype.kind == "f" and bool(np.isnan(a).any()) for a in arrays)


def _returns_gradients(call: Call) -> bool:
    """Whether a call gives gradients and no new parameters: a derivative, compiled or not."""
    return (
        call.function_returns_gradients or bool(call.gradients) or bool(getattr(call.function, "is_derivative", False))
    )


def _without_gradients(call: Call) -> None:
    arrays = {i for i, output in enumerate(call.outputs) if np.ndim(output)}
    if call.gradients and arrays - call.gradients:
        _put_back(call)  # it gives new parameters too
    for i in call.gradients or arrays:
        call.outputs[i] = jax.numpy.zeros_like(call.outputs[i])


def _put_back(call: Call) -> None:
    """Replace what the step has returned by what it was given, where one is the other's next value."""
    taken: set[int] = set()
    for i, output in enumerate(call.outputs):
        for j in call.dynamic():
            given = call.leaves[j]
            if (
                j in taken
                or np.shape(given) != np.shape(output)
                or (np.ndim(output) == 0 and all_finite(np.asarray(output)))
            ):
                continue
            if getattr(given, "dtype", None) == getattr(output, "dtype", None):
                taken.add(j)
                call.outputs[i] = given
                break


def _labels_out_of_range(traced: Traced, call: Call) -> tuple[tuple[int, float], ...]:
    """Return labels that a gather at the origin had no class for: JAX answers with NaN there."""
    graph = traced.interpreter.graph
    found = graph.slice(traced.starts)
    if found is None or found.origin is None or found.origin.name not in ("gather", "take", "take_along_axis"):
        return ()
    arrays = graph.kept.get(found.origin.index, {})
    operand = arrays.get(0)
    if operand is None or operand.ndim == 0:
        return ()
    wrong: list[tuple[int, float]] = []
    # Which axis is gathered from, and by what, is told by how little is outside of it: nearly all is right.
    for part in call.parts():
        if part.array.dtype.kind not in "iu" or part.array.ndim < 1:
            continue
        for n in operand.shape:
            bad = ((part.array < -n) | (part.array >= n)).reshape(len(part.array), -1)
            rows = [int(i) for i in np.flatnonzero(bad.any(1))]
            if rows and (not wrong or len(rows) < len(wrong)):
                wrong = [(i, float(part.array[i].reshape(-1)[bad[i].argmax()])) for i in rows]
    return tuple(wrong[:16])
