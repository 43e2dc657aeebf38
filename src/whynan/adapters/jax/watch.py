"""Watches compiled functions and derivatives: looks at what a call has returned, when it is there.

Steps are pure functions, so their arguments are the state before them. Small results are looked at each time, when they
are ready; large ones as often as the time allows, and the arguments of the calls in between are kept.
"""

import functools
import math
import re
import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from whynan.adapters.common.arrays import LeftOut, all_finite
from whynan.adapters.common.loops import decides_by_gradients
from whynan.adapters.common.patches import Patches
from whynan.adapters.jax.replay import Call
from whynan.adapters.jax.shards import is_outermost
from whynan.adapters.jax.trace import LOSS_TAG, note_rule
from whynan.launch.host import is_user_file, tell
from whynan.watching import Budget

_SMALL = 4096
_MAX_KEPT = 24
_LEAST_KEPT = 6
_KEPT_BYTES = 24 * 2**20
"""More would be memory that a step has to ask the system for anew."""
_LOSS = re.compile(r"loss|eval|valid|test_step|nll|cost|objective|error|energy", re.IGNORECASE)
_NOTED = re.compile(r"^(step|train|update|fit)|(_step|_update)$", re.IGNORECASE)


class Watch:
    """What is patched, and the last calls. `on_bad` is told of a call whose results are not finite."""

    def __init__(self, on_bad: Callable[[Call], Any], on_good: Callable[[Call], None]) -> None:
        self.patches = Patches()
        self.on_bad = on_bad
        self.on_good = on_good
        self.is_enabled = True
        self.on_first_gradient: Callable[[], None] | None = None
        self.is_replaying = False
        self.clip: float | None = None
        self.limit: float | None = None
        """The largest norm of the gradients from here on."""
        self.left_out = LeftOut()
        self._n_inside = 0
        self.current: Watched | None = None
        self.calls: deque[Call] = deque(maxlen=_MAX_KEPT)
        self.pending: deque[Call] = deque()
        self.dropped_donation = False
        self.is_eager_checked = False
        self.synchronous = False
        self.waits_for_derivatives = False
        """Whether a derivative that is not compiled is looked at before the program gets it."""
        self.epoch: Callable[[], int | None] = lambda: None
        self.n_validated = 0
        self.n_gradients = 0
        """Calls that have given gradients to the program itself, or trained in another way."""
        self.adjust: Callable[[Call], None] = lambda call: None
        """Told of each call before its results are kept and given to the program; it may change them."""
        self.large = Budget(0.008, n_first=3, free_s=5e-5)
        self._outputs: dict[int, int] = {}
        self._updated: dict[int, int] = {}
        self.has_update = False
        """Whether updates are compiled apart from the gradients."""
        self._candidates: dict[int, tuple[Watched, Any]] = {}
        self._n_apart = 0
        """Training calls one after the other whose results did not come back to them."""
        self._last: Call | None = None
        self.n_unchecked = 0
        self.n_kept = _MAX_KEPT

    def install(self) -> None:
        self.patches.replace(jax, "jit", self._jit)
        self.patches.replace(jax, "value_and_grad", self._derivative)
        self.patches.replace(jax, "grad", self._derivative)
        self.patches.replace(jax.custom_vjp, "defvjp", self._defvjp)
        if hasattr(jax, "pmap"):
            self.patches.replace(jax, "pmap", self._pmap)

    def watch_module(self, module: Any) -> None:
        """Watch what a module compiles by a name of its own."""
        if module.jit is not jax.jit:
            self.patches.replace(module, "jit", self._jit)

    def uninstall(self) -> None:
        self.is_enabled = False
        self.patches.undo()

    # Wrapping ---------------------------------------------------------------------------------------------------------

    def _jit(self, original: Any) -> Any:
        watch = self

        @functools.wraps(original)
        def jit(fun: Any = None, /, **options: Any) -> Any:
            if fun is None or not callable(fun):
                return functools.partial(jit, **options)
            kept = {k: v for k, v in options.items() if k not in ("donate_argnums", "donate_argnames")}
            watch.dropped_donation = watch.dropped_donation or len(kept) < len(options)
            try:
                return Watched(original(fun, **kept), fun, watch)
            except TypeError:
                return original(fun, **options)

        return jit

    def watched(self, step: Any) -> "Watched":
        """Return a step of which the program says that it trains, compiled or not."""
        made = Watched(step, getattr(step, "__wrapped__", step), self)
        made.is_training = True
        return made

    def _pmap(self, original: Any) -> Any:
        watch = self

        @functools.wraps(original)
        def pmap(fun: Any, *args: Any, **options: Any) -> Any:
            kept = {k: v for k, v in options.items() if k != "donate_argnums"}
            inner = original(fun, *args, **kept)
            made = Watched(inner, inner, watch)
            made.is_mapped = True
            return made

        return pmap

    def _defvjp(self, original: Any) -> Any:
        """A backward rule's operations carry the forward call's line; a trace is told of their own."""
        watch = self

        @functools.wraps(original)
        def defvjp(self: Any, fwd: Any, bwd: Any, *args: Any, **options: Any) -> Any:
            @functools.wraps(bwd)
            def rule(*given: Any) -> Any:
                if not watch.is_replaying:
                    return bwd(*given)
                with jax.named_scope(note_rule(bwd, given)):
                    return bwd(*given)

            return original(self, fwd, rule, *args, **options)

        return defvjp

    def _derivative(self, original: Any) -> Any:
        watch = self

        @functools.wraps(original)
        def derivative(fun: Any, argnums: Any = 0, has_aux: bool = False, *args: Any, **options: Any) -> Any:
            if watch.on_first_gradient is not None:
                watch.on_first_gradient()
                watch.on_first_gradient = None
            tagged = _tagged(fun, has_aux)
            inner = original(tagged, argnums, has_aux, *args, **options)
            return Watched(inner, inner, watch, is_derivative=True, has_value=original.__name__ == "value_and_grad")

        return derivative

    # Calls ------------------------------------------------------------------------------------------------------------

    def call(self, watched: "Watched", args: Any, kwargs: Any) -> Any:
        """Make a call and keep what is needed to make it again."""
        if self.is_replaying:
            # Nothing that is compiled already: the functions may have other code now.
            return self._limited(watched, args, kwargs)
        if not self.is_enabled:
            return watched.inner(*args, **kwargs)
        if not is_outermost() or self.current is not None:
            if watched.is_derivative and self.current is not None:
                self.current.is_training = True
            return self._limited(watched, args, kwargs)
        if self.left_out.samples:
            args, kwargs = self._without_samples(watched, args, kwargs)
        self.current = watched
        try:
            result = self._limited(watched, args, kwargs)
        finally:
            self.current = None
        self.poll()  # while the device works on this call
        if watched.is_derivative:
            watched.is_training = True
        if not watched.is_training and not watched.is_update and self._n_apart > 1:
            self._may_be_update(watched, args, kwargs, result)
        if not watched.is_of_interest():
            return result
        try:
            return self._after(watched, args, kwargs, result)
        except Exception as error:
            tell("looking at a step failed", error)
            self.is_enabled = False
            return result

    def limit_gradients(self, norm: float) -> None:
        """Clip gradients by their norm from here on; what is compiled is compiled anew."""
        self.limit = norm
        jax.clear_caches()

    def _limited(self, watched: "Watched", args: Any, kwargs: Any) -> Any:
        """Make the call; the gradients of the outermost derivative are kept within the limit."""
        inner = watched.function if self.is_replaying and not watched.is_derivative else watched.inner
        norm = self.clip if self.clip is not None else self.limit
        if norm is None or not watched.is_derivative:
            return inner(*args, **kwargs)
        self._n_inside += 1
        try:
            result = inner(*args, **kwargs)
        finally:
            self._n_inside -= 1
        # A derivative inside of another is part of its loss; one of many at once is a sample's own.
        is_whole = not self._n_inside and not any(
            "Batch" in type(v).__name__ for v in jax.tree_util.tree_leaves(result)
        )
        return _clipped(result, watched, norm) if is_whole else result

    def _without_samples(self, watched: "Watched", args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return a step's arguments with another row of the batch for each sample that is left out."""
        call = Call(watched.function, args, kwargs, "train")
        call.carried = self._carried(call)
        rows = self.left_out.rows(call.parts()) if watched.is_training else None
        if rows is None:
            return args, kwargs
        return jax.tree_util.tree_unflatten(call.tree, call.with_rows(rows))  # type: ignore[no-any-return]

    def _carried(self, call: Call) -> dict[int, int]:
        known = self._updated if call.is_update else self._outputs if self._last is not None else {}
        return {i: known[id(leaf)] for i, leaf in enumerate(call.leaves) if id(leaf) in known}

    def _after(self, watched: "Watched", args: Any, kwargs: Any, result: Any) -> Any:
        is_training = watched.is_training or watched.is_update
        call = Call(watched.function, args, kwargs, "train" if is_training else "validation")
        call.is_training, call.is_update = is_training, watched.is_update
        self.n_gradients += watched.is_training
        if watched.is_training and self._candidates:
            for found in {self._candidates[id(leaf)][0] for leaf in call.leaves if id(leaf) in self._candidates}:
                found.is_update = True
            self._candidates = {}
        call.line = _user_line(sys._getframe(3))
        call.ignored = watched.meant
        call.function_returns_gradients = watched.is_derivative
        if watched.is_mapped:
            call.n_devices = next((np.shape(leaf)[0] for leaf in call.leaves if np.ndim(leaf)), None)
        call.set_result(result)
        call.carried = self._carried(call)
        self.adjust(call)
        if is_training or not call.carried:
            self._remember(call)
        call.epoch = self.epoch()
        call.validation_batch = self.n_validated
        self.n_validated = 0 if watched.is_training else self.n_validated + 1
        self.calls.append(call)
        size = sum(int(getattr(leaf, "nbytes", 0)) for leaf in call.outputs)
        self.n_kept = max(_LEAST_KEPT, min(_MAX_KEPT, _KEPT_BYTES // max(size, 1)))
        while len(self.calls) > self.n_kept:
            self.calls.popleft()
        self.pending.append(call)
        if self.synchronous or (watched.is_derivative and self.waits_for_derivatives):
            self.poll(wait=True)
            if is_training:
                self._remember(call)  # an intervention may have put other results in
            return jax.tree_util.tree_unflatten(call.out_tree, call.outputs)
        return result

    @staticmethod
    def decides(call: Call) -> bool:
        """Whether the code that made a call decides by the gradients that it got."""
        if call.line is None:
            return False
        file, line = call.line
        return decides_by_gradients(file, line, lambda node: node.lineno <= line <= (node.end_lineno or node.lineno))

    def _may_be_update(self, watched: "Watched", args: Any, kwargs: Any, result: Any) -> None:
        """Note a call that has made arrays, of the gradients that the last training call gave, of their shapes.

        It is an update where the next training call is given them.
        """
        given = [leaf for leaf in jax.tree_util.tree_leaves((args, kwargs)) if id(leaf) in self._outputs]
        made = jax.tree_util.tree_leaves(result)
        shapes = {np.shape(leaf) for leaf in given if np.ndim(leaf)}
        if shapes and shapes <= {np.shape(leaf) for leaf in made}:
            self._candidates |= {id(leaf): (watched, leaf) for leaf in made if np.ndim(leaf)}

    def _remember(self, call: Call) -> None:
        """Know the results again when they come back as arguments."""
        if call.is_update:
            self.has_update = True
            self._updated = {id(leaf): i for i, leaf in enumerate(call.outputs)}
            return
        # Gradients never come back to the function that gave them.
        self._n_apart = 0 if call.carried else self._n_apart + call.is_training
        if call.is_training or self._last is None:
            self._last = call
            self._outputs = {id(leaf): i for i, leaf in enumerate(call.outputs) if np.ndim(leaf) or True}

    def poll(self, wait: bool = False) -> None:
        """Look at the calls whose small results are there; with `wait` at all of them."""
        while self.pending and self.is_enabled:
            call = self.pending[0]
            small = [leaf for leaf in call.of_interest() if _is_small(leaf)]
            if not wait and not all(_is_ready(leaf) for leaf in small) and len(self.pending) < 4:
                return
            self.pending.popleft()
            self._look(call, small, wait)

    def settle(self) -> None:
        """Look at all that there is, the large results of the last step too: the program is about to use them."""
        self.poll(wait=True)
        if self.n_unchecked and self.calls and self.is_enabled:
            self.n_unchecked = 0
            last = self.calls[-1]
            if not all(_large_is_finite(leaf) for leaf in last.of_interest() if not _is_small(leaf)):
                self.on_bad(last)

    def _look(self, call: Call, small: list[Any], wait: bool) -> None:
        is_bad = not all(_is_acceptable(leaf) for leaf in small)
        if not is_bad:
            self.n_unchecked += 1
            if wait or self.large.is_due() or self.n_unchecked >= self.n_kept - 2:
                self.large.begin()
                is_bad = not all(_large_is_finite(leaf) for leaf in call.of_interest() if not _is_small(leaf))
                self.large.end()
                self.n_unchecked = 0
        if is_bad:
            self.pending.clear()
            self.on_bad(call)
        else:
            self.on_good(call)


class Watched:
    """A compiled function, or a derivative, that tells the watch when the program itself calls it."""

    def __init__(
        self, inner: Any, function: Any, watch: Watch, is_derivative: bool = False, has_value: bool = False
    ) -> None:
        functools.update_wrapper(self, inner, updated=())
        self.inner = inner
        self.function = function
        self.watch = watch
        self.is_derivative = is_derivative
        self.has_value = has_value
        self.is_training = False
        self.is_update = False
        self.is_mapped = False
        self.meant: set[int] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.watch.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "watch"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return repr(self.inner)

    def is_of_interest(self) -> bool:
        """Whether the function trains, or gives a loss by its name."""
        name = getattr(self.function, "__name__", "")
        return self.is_training or self.is_update or bool(_LOSS.search(name)) or bool(_NOTED.search(name))


def _clipped(result: Any, watched: "Watched", norm: float) -> Any:
    """Return a derivative's result with its gradients scaled down to a global norm."""
    value, gradients = result if watched.has_value else (None, result)
    leaves = [leaf for leaf in jax.tree_util.tree_leaves(gradients) if hasattr(leaf, "dtype")]
    total = jax.numpy.sqrt(sum(jax.numpy.sum(jax.numpy.square(leaf)) for leaf in leaves))
    scale = jax.numpy.minimum(1.0, norm / (total + 1e-12))
    small = jax.tree_util.tree_map(lambda leaf: leaf * scale.astype(leaf.dtype), gradients)
    return (value, small) if watched.has_value else small


def _tagged(fun: Any, has_aux: bool) -> Any:
    """Return the function with a mark on its value, by which a trace knows the loss."""

    @functools.wraps(fun)
    def loss(*args: Any, **kwargs: Any) -> Any:
        result = fun(*args, **kwargs)
        try:
            if has_aux:
                value, aux = result
                return (checkpoint_name(value, LOSS_TAG), aux)
            return checkpoint_name(result, LOSS_TAG)
        except (TypeError, ValueError):
            return result

    return loss


def _user_line(frame: FrameType | None) -> tuple[str, int] | None:
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def _is_small(leaf: Any) -> bool:
    return bool(leaf.size <= _SMALL) if hasattr(leaf, "size") else isinstance(leaf, (int, float))


def _is_ready(leaf: Any) -> bool:
    ready = getattr(leaf, "is_ready", None)
    return ready is None or bool(ready())


def _is_acceptable(leaf: Any) -> bool:
    """Whether a small result has no NaN. An infinity may be meant: a best value so far, a masked entry."""
    try:
        array = np.asarray(leaf)
    except (TypeError, ValueError):
        return True
    if array.dtype.kind not in "fcV":
        return True
    if array.size == 1 and array.dtype.kind == "f":
        return math.isfinite(float(array.reshape(-1)[0]))
    return all_finite(array)


def _large_is_finite(leaf: Any) -> bool:
    try:
        return all_finite(np.asarray(leaf))
    except (TypeError, ValueError):
        return True
