"""What is known of a JAX run as a whole, and remedies tried on its failing step."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from whynan.adapters.common.arrays import all_finite, is_floating, others, to_numpy
from whynan.adapters.common.experiments import CommonBench, Scale, growth_of, scale_of, standardised
from whynan.adapters.common.patches import swapped
from whynan.adapters.jax.byhand import HandBench
from whynan.adapters.jax.replay import Call, Runner, Traced
from whynan.adapters.jax.watch import Watch
from whynan.experiments import Measured
from whynan.records import OptimizerFacts, Precision

_MAX_ELEMENTS = 50_000_000


def parameters(call: Call) -> dict[str, Any]:
    """Return the call's parameters by name: what it carries from step to step, or by its first argument's name."""
    names = call.names()
    batch = {id(part.array) for part in call.parts()}
    found = {}
    total = 0
    for i in call.dynamic():
        array = to_numpy(call.leaves[i])
        if array is None or array.ndim == 0 or not is_floating(array) or id(array) in batch:
            continue
        is_state = i in call.carried if call.carried else call.is_state(i, names)
        total += array.size
        if is_state and "opt" not in names[i] and total < _MAX_ELEMENTS:
            found[names[i]] = array
    return found


def optimizer_of(call: Call, keras: Any) -> OptimizerFacts | None:
    """Return the optimizer's facts where Keras has one, or where optax keeps its settings in the state."""
    if keras is not None:
        return keras.optimizer_facts()  # type: ignore[no-any-return]
    names = call.names()
    state = [name for name in names if "opt" in name.split("[")[0] or ".mu" in name or ".nu" in name]
    if not state:
        return None
    adaptive = any(".nu" in name for name in state)
    lr = next((float(np.asarray(call.leaves[i])) for i, name in enumerate(names) if "learning_rate" in name), None)
    return OptimizerFacts(name="adam" if adaptive else "optax", lr=lr)


def precision_of(call: Call, traced: Traced) -> Precision:
    dtypes = [str(a.dtype) for a in parameters(call).values()]
    own = dtypes[0] if dtypes else "float32"
    half = None
    found = traced.interpreter.graph.slice(traced.starts)
    if found is not None and found.origin is not None:
        half = next((s.dtype for s in found.origin.inputs if s.dtype in ("float16", "bfloat16")), None)
    return Precision(autocast=half if own == "float32" else None, parameters=own)


_STEPS = 200
_MAX_BYTES = 256 * 2**20


class Window:
    """The training calls since one whose arguments are all kept; later ones keep what the last did not give them."""

    def __init__(self) -> None:
        self.calls: deque[tuple[Call, dict[int, Any]]] = deque()
        self.first: list[Any] | None = None
        self.from_beginning = False
        self.n_bytes = 0
        self.next_at: int | None = None
        self.next_first: list[Any] | None = None

    def note(self, call: Call, is_first: bool) -> None:
        """Keep a call that went well."""
        if self.first is None or (self.calls and call.function is not self.calls[-1][0].function):
            self.calls.clear()
            self.first, self.from_beginning, self.n_bytes = list(call.leaves), is_first, 0
            self.next_first = self.next_at = None
        elif len(self.calls) - (self.next_at or 0) >= _STEPS:
            if self.next_first is not None and self.next_at is not None:
                self.first, self.from_beginning = self.next_first, False
                for _ in range(self.next_at):
                    self.calls.popleft()
            self.next_first, self.next_at = list(call.leaves), len(self.calls)
        fresh = {i: leaf for i, leaf in enumerate(call.leaves) if i not in call.carried}
        self.n_bytes += sum(int(getattr(leaf, "nbytes", 0)) for leaf in fresh.values()) if self.calls else 0
        if self.n_bytes > _MAX_BYTES:
            self.first = None
            self.calls.clear()
            return
        self.calls.append((call.without_values(), fresh))


class Bench(CommonBench):
    """What can be tried on the failing call and on the window before it."""

    def __init__(self, watch: Watch, call: Call, window: Window, deadline: float) -> None:
        super().__init__(deadline)
        self.watch = watch
        self.by_hand: HandBench | None = None
        """Where the script updates by hand: its own iterations are what is run again."""
        self.call = call
        self.window = window

    def without_rows(self, rows: list[int]) -> Measured | None:
        kept = others(self.call.size_of_batch(), rows)
        return self._once(Runner(self.call), self.call.with_rows(kept)) if kept is not None else None

    def with_other_targets(self, rows: list[int]) -> Measured | None:
        kept = others(self.call.size_of_batch(), rows)
        targets = {part.name for part in self.call.parts() if part.role == "target"}
        if kept is None or not targets:
            return None
        leaves, names = list(self.call.leaves), self.call.data_names()
        replaced = self.call.with_rows(kept)
        for i in self.call.batch_places():
            if names[i] in targets:
                leaves[i] = replaced[i]
        return self._once(Runner(self.call), leaves)

    def with_source(self, file: str, source: str) -> Measured | None:
        try:
            with swapped({file: source}):
                # What has been traced before (by `pmap`, or a library's own `jit`) knows functions by their identity.
                jax.clear_caches()
                return self._once(Runner(self.call), self.call.leaves)
        finally:
            jax.clear_caches()

    def in_double(self) -> Measured | None:
        leaves = [_in_double(leaf) for leaf in self.call.leaves]
        with jax.experimental.enable_x64():
            return self._once(Runner(self.call), leaves)

    def _once(self, runner: Runner, leaves: Sequence[Any]) -> Measured:
        try:
            outputs = runner.outputs(leaves)
        except Exception as error:
            return Measured(1, error=type(error).__name__)
        return measured(outputs, self.call, 1)

    def with_rate(self, factor: float) -> Measured | None:
        if self.by_hand is not None:
            return self.by_hand.with_rate(factor)

        def slower(leaves: list[Any], outputs: list[Any], pairs: dict[int, int]) -> list[Any]:
            new = list(outputs)
            for place, output in pairs.items():
                old, now = leaves[place], outputs[output]
                if _is_float_array(old) and np.ndim(old) and np.shape(old) == np.shape(now):
                    new[output] = old + factor * (now - old)
            return new

        return self._window(after=slower)

    def clipped(self, norm: float) -> Measured | None:
        self.watch.clip = norm
        try:
            return self._window() if self.by_hand is None else self.by_hand.unchanged()
        finally:
            self.watch.clip = None

    def normalized(self) -> Measured | None:
        spread = self._spread()
        if not spread:
            return None
        return self._window(change=lambda leaves: [
            standardised(np.asarray(leaf), spread[i]) if i in spread else leaf for i, leaf in enumerate(leaves)
        ])  # fmt: skip

    def with_init(self) -> Measured | None:
        if not self.window.from_beginning and self.window.calls:
            return None
        data = set(self.call.batch_places())

        def scaled(leaves: list[Any]) -> list[Any]:
            new = list(leaves)
            for i, leaf in enumerate(leaves):
                array = to_numpy(leaf) if i not in data else None
                if array is None or array.ndim < 2 or not is_floating(array):
                    continue
                spread, fan_in = float(array.std()), math.prod(array.shape[:-1])
                if spread * math.sqrt(fan_in) > 2:
                    new[i] = leaf / spread / math.sqrt(fan_in)
            return new

        return self._window(prepare=scaled)

    def _control(self) -> Measured | None:
        clip, self.watch.clip = self.watch.clip, None
        try:
            return self._series()
        finally:
            self.watch.clip = clip

    def _series(
        self,
        change: Callable[[list[Any]], list[Any]] | None = None,
        after: Callable[[list[Any], list[Any], dict[int, int]], list[Any]] | None = None,
        prepare: Callable[[list[Any]], list[Any]] | None = None,
    ) -> Measured | None:
        steps = [*self.window.calls] if self.window.first is not None else []
        usable = bool(steps) and steps[-1][0].function is self.call.function and bool(self.call.carried)
        if not usable:
            # Nothing came before: the failing call is the first.
            if self.call.carried or steps:
                return None
            steps = []
        first = list(self.window.first) if usable and self.window.first is not None else list(self.call.leaves)
        last = {i: leaf for i, leaf in enumerate(self.call.leaves) if i not in self.call.carried}
        pairs = self.call.carried if usable else self._guessed()
        stop = self._until()
        runner = Runner(self.call)
        leaves = prepare(first) if prepare is not None else first
        losses: list[float] = []
        plan = [fresh for _, fresh in steps] + [last]
        for n, fresh in enumerate(plan, 1):
            if n > 1:
                leaves = [fresh.get(i, leaves[i]) for i in range(len(leaves))]
            given = change(leaves) if change is not None else leaves
            try:
                outputs = runner.outputs(given)
            except Exception as error:
                return Measured(n, error=type(error).__name__)
            if after is not None:
                outputs = after(given, outputs, pairs)
            result = measured(outputs, self.call, n)
            if result.failure is not None:
                return result
            losses.append(result.loss or 0.0)
            for place, output in pairs.items():
                leaves[place] = outputs[output]
            if time.monotonic() > stop:
                return None
        return Measured(len(plan), losses[-1], growth=growth_of(losses))

    def _guessed(self) -> dict[int, int]:
        """Which result is an argument's next value, where no second call has shown it."""
        pairs: dict[int, int] = {}
        data = set(self.call.batch_places())
        for output, value in enumerate(self.call.outputs):
            for place in self.call.dynamic():
                leaf = self.call.leaves[place]
                if place in data or place in pairs or np.shape(leaf) != np.shape(value) or not np.ndim(leaf):
                    continue
                if getattr(leaf, "dtype", None) == getattr(value, "dtype", None):
                    pairs[place] = output
                    break
        return pairs

    def _spread(self) -> dict[int, Scale]:
        found: dict[int, Scale] = {}
        for i in self.call.batch_places():
            arrays = [to_numpy(self.call.leaves[i]), *(to_numpy(f[i]) for _, f in self.window.calls if i in f)]
            arrays = [a for a in arrays if a is not None and a.ndim >= 1 and is_floating(a)]
            scale = scale_of(arrays, by_last=True) if arrays else None
            if scale is not None:
                found[i] = scale
        return found


def measured(outputs: Sequence[Any], call: Call, n_steps: int) -> Measured:
    loss = None
    for value in call.of_interest(outputs):
        array = to_numpy(value)
        if array is None:
            continue
        if not all_finite(array):
            what = "the loss is" if array.size == 1 else "a result is"
            return Measured(n_steps, failure=f"{what} not finite")
        if loss is None and array.size == 1 and array.dtype.kind == "f":
            loss = float(array.reshape(-1)[0])
    return Measured(n_steps, loss)


def _is_float_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and np.dtype(leaf.dtype).kind == "f" if not _is_extended(leaf) else False


def _is_extended(leaf: Any) -> bool:
    return bool(hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended))


def _in_double(leaf: Any) -> Any:
    array = to_numpy(leaf)
    if array is None or not is_floating(array) or not hasattr(leaf, "dtype"):
        return leaf
    return np.asarray(array, np.float64)
