"""From recorded steps of JAX to suspects and witnesses."""

import linecache
import sys
import time
from dataclasses import replace
from typing import Any

from whynan.adapters.common.arrays import all_finite, to_numpy
from whynan.adapters.jax.check.build import Built, build, measure
from whynan.adapters.jax.check.facts import layers, moves, rate_test, update_facts
from whynan.adapters.jax.check.search import JaxSearch
from whynan.adapters.jax.closure import Call
from whynan.adapters.jax.replay import Runner
from whynan.adapters.jax.watch import Watch
from whynan.check.analyse import analyse
from whynan.check.context import Context
from whynan.check.graph import Measured, Place
from whynan.check.result import CheckResult
from whynan.check.review.all import review
from whynan.check.review.facts import OptimizerFacts, StepFacts
from whynan.check.session import CheckOptions, Progress
from whynan.check.suspects import find_suspects, ranked
from whynan.check.witness import Replayed, Saved, Witness
from whynan.errors import WitnessError
from whynan.launch.host import Unwind, is_user_file


class Enough(Unwind):
    """The steps that were asked for have been made: the script is left."""


class JaxRecording:
    """A JAX program: the calls of its first steps."""

    framework = "jax"

    def __init__(self, steps: int) -> None:
        self.steps = max(steps, 2)
        self.watch = Watch(self._called, self._called)
        self.watch.synchronous = True
        self.calls: list[Call] = []
        self.n_calls = 0
        self.call: Call | None = None
        self.built: Built | None = None
        self.failure = ""
        self.place: Place | None = None
        self.runner: Runner | None = None

    @property
    def n_iterations(self) -> int:
        return len(self.calls)

    def attach(self) -> None:
        self.watch.install()

    def attach_keras(self, keras: Any) -> None:
        """Called when the program has imported Keras with this backend."""

    def detach(self) -> None:
        """Look at no further call; what is patched stays until the steps have been judged."""
        self.watch.is_enabled = False

    def seen(self) -> str:
        return (
            f"seen were {self.n_calls} calls of compiled functions, {len(self.calls)} of them with a derivative in them"
        )

    def _called(self, call: Call) -> None:
        self.n_calls += 1
        if not call.is_training:
            return
        self.calls.append(call)
        self.place = self.place or _calling_place()
        if len(self.calls) >= self.steps:
            # Now and not later: a library around the call (Flax' nnx) may hold what tracing it needs.
            self._build()
            raise Enough()

    def _build(self) -> None:
        """Evaluate the last step whose arguments are finite; of a run that failed at once, the first."""
        self.watch.is_replaying = True
        self.call = next((c for c in reversed(self.calls) if _is_finite(c)), self.calls[0])
        try:
            self.built = build(self.call, home=self.place)
            self.runner = Runner(self.call)
            self.runner.use(self.built.closed)  # later the library may not let it be traced again
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        finally:
            self.watch.is_replaying = False

    def judge(self, options: CheckOptions, result: CheckResult, progress: Progress, has_raised: bool) -> None:
        if not self.calls:
            return
        progress("the step's equations, one by one")
        if self.built is None:
            self._build()
        if self.built is None or self.call is None:
            result.notes.append(f"the step could not be traced: {self.failure}")
            return
        call, built = self.call, self.built
        self.watch.is_replaying = True
        for place, index in built.leaves.items():
            node = built.graph.nodes[index]
            if node.kind == "data":
                node.measured = _widened(
                    node.measured, [c.leaves[place] for c in self.calls if len(c.leaves) == len(call.leaves)]
                )
        context = analyse(built.graph, options.growth)
        result.n_nodes = len(built.graph.nodes)
        suspects = find_suspects(context)
        if options.search and suspects:
            until = time.monotonic() + options.budget
            search = JaxSearch(context, call, built, self.runner or Runner(call))
            searched = []
            for number, suspect in enumerate(suspects, 1):
                progress(f"looking for a witness, {number} of {len(suspects)}: {suspect.place.code[:60]}")
                left = until - time.monotonic()
                if left <= 0.05:
                    witness = Witness("not searched", "the time for witnesses was used up")
                else:
                    try:
                        witness = search.find(suspect.hazard, suspect.phase, left / (len(suspects) - number + 1) * 1.5)
                    except Exception as error:
                        witness = Witness(
                            "not searched", f"the step could not be run again: {type(error).__name__}: {error}"[:200]
                        )
                searched.append(replace(suspect, witness=witness))
            suspects = searched
        # What a library guards in ways that ranges don't see is its own business, until it is shown to fail.
        result.suspects = ranked(s for s in suspects if s.has_witness or not s.is_in_library)
        progress("review")
        result.review = review(self._facts(context, call, built))
        self.watch.uninstall()
        progress("")

    def _facts(self, context: Context, call: Call, built: Built) -> StepFacts:
        optimizers: tuple[OptimizerFacts, ...] = ()
        tested: tuple[tuple[float, float], ...] = ()
        try:
            runner = self.runner or Runner(call)
            used = built.graph.relevant()
            places = [p for p, i in built.leaves.items() if i in used and built.graph.nodes[i].kind == "parameter"]
            changes = moves(runner, call, places)
            optimizers = (update_facts(built, call, changes, self.place),)
            tested = rate_test(call, built, changes)
        except Exception as error:  # a step that can't be run again is read as it was
            self.failure = f"{type(error).__name__}: {error}"
        compiled = sys.modules.get("keras")
        if compiled is not None:
            from whynan.adapters.keras.check import optimizers_of

            # What Keras says by name need not be read out of the equations.
            optimizers = (*(replace(o, eps=()) for o in optimizers), *optimizers_of(self.place))
        return StepFacts(context, optimizers, layers(built.graph), rate_test=tested)

    def replay(self, options: CheckOptions, saved: Saved) -> Replayed:
        """Run the recorded step on a saved witness."""
        if self.built is None:
            self._build()
        if self.built is None or self.call is None:
            raise WitnessError(f"the step could not be traced: {self.failure}")
        self.watch.is_replaying = True
        return JaxSearch(
            analyse(self.built.graph, options.growth), self.call, self.built, self.runner or Runner(self.call)
        ).replay(saved)


def _calling_place() -> Place | None:
    """Return the user's line that is running: of a step, or of a library's `fit`."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file):
            text = linecache.getline(file, frame.f_lineno).strip()
            return Place(file, frame.f_lineno, frame.f_code.co_name, text)
        frame = frame.f_back
    return None


def _is_finite(call: Call) -> bool:
    arrays = [to_numpy(call.leaves[i]) for i in call.dynamic()]
    return all(array is None or all_finite(array) for array in arrays)


def _widened(measured: Measured | None, leaves: list[Any]) -> Measured | None:
    found = [m for leaf in leaves if (m := measure(to_numpy(leaf))[0]) is not None]
    if measured is None or not found:
        return measured
    return Measured(
        min(m.lo for m in found), max(m.hi for m in found), min(m.least for m in found), measured.n_nonfinite
    )
