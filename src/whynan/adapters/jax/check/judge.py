"""What the review asks of a JAX step, and what is told of it before the run."""

import linecache
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from whynan.adapters.common.arrays import all_finite, to_numpy
from whynan.adapters.jax.check.build import Built, build, measure
from whynan.adapters.jax.check.search import JaxSearch
from whynan.adapters.jax.replay import Call, Runner
from whynan.adapters.jax.watch import Watch
from whynan.check.context import Context
from whynan.check.graph import SMALLEST, Graph, Measured, Place
from whynan.check.review import LayerFacts, OptimizerFacts, StepFacts, review
from whynan.check.session import CheckOptions, Progress
from whynan.check.suspects import CheckResult, find_suspects, ranked
from whynan.check.transfer import analyse
from whynan.check.witness import Replayed, Saved, Witness
from whynan.errors import WitnessError
from whynan.launch.host import Unwind, is_user_file

if TYPE_CHECKING:
    from whynan.adapters.jax.check.build import Recorder


_FACTORS = (1.0, 0.1, 0.01)
_MOST_NODES = 1500


def layers(graph: Graph) -> tuple[LayerFacts, ...]:
    """Return the size of what each product gives, the zeros of each relu, the ends of each tanh and sigmoid."""
    found = []
    for node in graph.nodes:
        about = node.attrs.get("layer")
        if about is None or node.phase != "forward":
            continue
        where = node.module or (f"{node.place.function}, line {node.place.line}" if node.place else node.op)
        found.append(LayerFacts(f"{node.op} in {where}" if not node.module else where, *about))
    return tuple(found)


def update_facts(built: Built, call: Call, changes: dict[int, Any], place: Place | None) -> OptimizerFacts:
    """Return what the step's own equations tell of the update: m / (sqrt(v) + eps), and how far it moves."""
    eps, dtypes = _epsilon(built.recorder)
    weights = math.sqrt(sum(float(np.square(np.float64(np.asarray(call.leaves[p]))).sum()) for p in changes))
    moved = math.sqrt(sum(float(np.square(c).sum()) for c in changes.values()))
    return OptimizerFacts(
        kind="the update",
        place=place,
        rates=(),
        eps=eps,
        decays=(),
        momentum=0.0,
        dtypes=dtypes,
        weight_norm=weights,
        gradient_norm=moved,
        n_parameters=0,
    )


def _epsilon(recorder: "Recorder") -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Find divisors sqrt(v) + eps outside of the forward pass, where v is no smaller than 0."""
    made = {output: seen for seen in recorder.seen.values() for output in seen.outputs}
    sources = recorder.graph.nodes
    found: set[tuple[float, str]] = set()
    for index, seen in recorder.seen.items():
        if seen.primitive != "div" or sources[index].phase == "forward" or len(seen.inputs) < 2:
            continue
        divisor = _past(made, seen.inputs[1])
        if divisor is None:
            continue
        if divisor.primitive == "sqrt":
            found.add((0.0, str(divisor.arrays[0].dtype)))
        elif divisor.primitive == "add":
            root = next(
                (m for i in divisor.inputs if (m := _past(made, i)) is not None and m.primitive == "sqrt"), None
            )
            number = next((v for i in divisor.inputs if (v := _number(recorder, made, i)) is not None), None)
            if root is not None and number is not None and divisor.arrays[0] is not None:
                found.add((number, str(divisor.arrays[0].dtype)))
    # A type's smallest number and what the program gave: what was rounded to 0 is told by the type.
    bad = {(value, dtype) for value, dtype in found if value < SMALLEST.get(dtype, 0.0) or value == 0}
    return tuple(sorted({v for v, _ in bad})), tuple(sorted({d for _, d in bad}))


def _past(made: dict[int, Any], number: int) -> Any:
    """Return what made a value, past changes of shape and type."""
    seen = made.get(number)
    while seen is not None and seen.primitive in ("broadcast_in_dim", "convert_element_type", "reshape", "copy"):
        seen = made.get(seen.inputs[0])
    return seen


def _number(recorder: "Recorder", made: dict[int, Any], number: int) -> float | None:
    seen = made.get(number)
    while seen is not None and seen.primitive in ("broadcast_in_dim", "convert_element_type", "reshape", "copy"):
        number = seen.inputs[0]
        seen = made.get(number)
    value = to_numpy(recorder.constants.get(number)) if number in recorder.constants else None
    return float(value) if value is not None and value.ndim == 0 and value.dtype.kind in "fiuV" else None


def moves(runner: Runner, call: Call, places: Sequence[int]) -> dict[int, Any]:
    """Return by how much one step moves each parameter; nothing where the function gives gradients."""
    if call.function_returns_gradients:
        return {}
    outputs = [to_numpy(o) for o in runner.outputs(call.leaves)]
    taken: set[int] = set()
    found = {}
    for place in places:
        old = to_numpy(call.leaves[place])
        if old is None or old.dtype.kind not in "fV" or old.ndim == 0:
            continue
        same = [k for k, o in enumerate(outputs) if o is not None and o.shape == old.shape and k not in taken]
        if call.carried.get(place) in same:
            same = [call.carried[place]]
        if not same:
            continue
        best = min(same, key=lambda k: float(np.abs(np.float64(outputs[k]) - np.float64(old)).sum()))
        taken.add(best)
        found[place] = np.float64(outputs[best]) - np.float64(old)
    return found


def rate_test(call: Call, built: Built, changes: dict[int, Any]) -> tuple[tuple[float, float], ...]:
    """Return (share of the step, loss) for a hundredth, a tenth and the whole of the step's own update."""
    root = built.graph.roots[-1] if built.graph.roots else None
    start = built.graph.nodes[root].measured if root is not None else None
    if root is None or start is None or start.n_nonfinite or len(built.graph.nodes) > _MOST_NODES:
        return ()
    if not changes or not all(all_finite(c) for c in changes.values()):
        return ()
    found = [(0.0, start.hi)]
    for factor in _FACTORS:
        leaves = list(call.leaves)
        for place, change in changes.items():
            old = np.asarray(leaves[place])
            leaves[place] = (np.float64(old) + factor * change).astype(old.dtype)
        graph = build(call, leaves, closed=built.closed).graph
        measured = graph.nodes[graph.roots[-1]].measured if graph.roots else None
        if measured is None:
            return ()
        found.append((factor, math.inf if measured.n_nonfinite else measured.hi))
        if factor == 1.0 and found[-1][1] <= 2 * abs(start.hi):
            break  # the whole step is fine: shorter ones need no trial
    return tuple(sorted(found))


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
            from whynan.adapters.keras import optimizers_of

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
