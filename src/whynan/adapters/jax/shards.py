"""Arrays on many devices and hosts (`jax.distributed`), each of which gets the whole, once; what of JAX is not public.

Each equation is evaluated for every shard before the next one, so that a sum over devices has what it needs.

The parts travel through the job's store, not through the devices, which may be busy with a step that waits for a
process that has stopped. With everything at hand each process runs the step again by itself.
"""

import itertools
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from whynan.adapters.common.arrays import to_numpy
from whynan.trace import Frame

if TYPE_CHECKING:
    from whynan.adapters.jax.replay import Call
    from whynan.adapters.jax.trace import Interpreter, Value
from types import CodeType

from jax._src import core, source_info_util

Literal = core.Literal
Var = core.Var


def is_outermost() -> bool:
    """Whether no transformation or compilation is under way: arrays are arrays and not tracers."""
    return bool(core.trace_state_clean())


def frames_of(eqn: Any) -> tuple[list[CodeType], list[int]]:
    """Return the Python frames in which an equation was made, innermost first: code objects and instructions."""
    traceback = eqn.source_info.traceback
    if traceback is None:
        return [], []
    codes, lasti = traceback.raw_frames()
    return codes, lasti


def name_stack_of(eqn: Any) -> str:
    return str(eqn.source_info.name_stack)


def bind(eqn: Any, values: list[Any]) -> list[Any]:
    params = eqn.primitive.get_bind_params(eqn.params)
    if isinstance(params, tuple):  # before 0.10: functions apart from the rest
        functions, params = params
        result = eqn.primitive.bind(*functions, *values, **params)
    else:
        result = eqn.primitive.bind(*values, **params)
    return list(result) if eqn.primitive.multiple_results else [result]


@contextmanager
def own_lines() -> Iterator[None]:
    """Let operations be known by the line that makes them, not by the one whose derivative they are."""
    place = source_info_util._source_info_context
    before = place.context
    place.context = source_info_util.new_source_info()
    try:
        yield
    finally:
        place.context = before


_SUMS = {"psum": "sum", "psum2": "sum", "psum_invariant": "sum", "pmax": "max", "pmin": "min"}
_SAME = frozenset({"pvary", "pbroadcast", "pcast"})
_MAX_SHARDS = 64


class OpaqueError(Exception):
    """The shards exchange something in a way that is not followed here; the whole is then one operation."""


class Shards:
    """The shards of one `shard_map`: their places on the mesh's axes, and their values by name."""

    def __init__(self, interpreter: "Interpreter", params: dict[str, Any], stack: tuple[Frame, ...]) -> None:
        sizes = dict(params["mesh"].shape)
        manual = params.get("newly_manual_axes") or params.get("manual_axes") or frozenset(sizes)
        self.sizes = {name: size for name, size in sizes.items() if name in manual}
        self.places = [dict(zip(self.sizes, at)) for at in itertools.product(*map(range, self.sizes.values()))]
        self.interpreter = interpreter
        self.stack = stack
        if len(self.places) > _MAX_SHARDS:
            raise OpaqueError(f"{len(self.places)} shards")

    def run(self, params: dict[str, Any], given: Sequence["Value"]) -> list["Value"]:
        """Evaluate the body of a `shard_map` with these arguments."""
        jaxpr = getattr(params["jaxpr"], "jaxpr", params["jaxpr"])
        values = [
            [self._part(value, spec, place) for value, spec in zip(given, params["in_specs"], strict=True)]
            for place in self.places
        ]
        outputs = self._jaxpr(jaxpr, values, self.stack, "")
        return [self._joined([of_shard[i] for of_shard in outputs], spec) for i, spec in enumerate(params["out_specs"])]

    def _jaxpr(
        self, jaxpr: Any, values: list[list["Value"]], outer: tuple[Frame, ...], name: str | None
    ) -> list[list["Value"]]:
        envs: list[dict[Any, Value]] = [dict(zip(jaxpr.invars, of_shard, strict=True)) for of_shard in values]
        constant = self.interpreter.constant

        def read(env: dict[Any, "Value"], atom: Any) -> "Value":
            return constant(atom.val) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            given = [[read(env, atom) for atom in eqn.invars] for env in envs]
            for env, outputs in zip(envs, self._equation(eqn, given, outer, name), strict=True):
                env.update(zip(eqn.outvars, outputs))
        return [[read(env, atom) for atom in jaxpr.outvars] for env in envs]

    def _equation(
        self, eqn: Any, given: list[list["Value"]], outer: tuple[Frame, ...], name: str | None
    ) -> list[list["Value"]]:
        primitive = eqn.primitive.name
        if primitive in _SAME:
            return given
        if primitive in _SUMS:
            return self._reduced(eqn, given, outer, name)
        if primitive == "axis_index":
            index = self._axis_indices(eqn.params["axis_name"])
            return [[self.interpreter.constant(np.int32(i))] for i in index]
        if not _exchanges(eqn):
            return [self.interpreter.equation(eqn, of_shard, outer, name) for of_shard in given]
        inner = self.interpreter.inlined(eqn)
        if inner is None:
            raise OpaqueError(primitive)
        jaxpr, consts = inner
        n = len(jaxpr.invars)
        stack = self.interpreter.stack_of(eqn, outer, name)
        if jaxpr.constvars or consts:
            raise OpaqueError(f"{primitive} with constants")
        return self._jaxpr(jaxpr, [of_shard[-n:] if n else [] for of_shard in given], stack,
                           str(eqn.params.get("name", "")))  # fmt: skip

    # What shards exchange ---------------------------------------------------------------------------------------------

    def _reduced(
        self, eqn: Any, given: list[list["Value"]], outer: tuple[Frame, ...], name: str | None
    ) -> list[list["Value"]]:
        axes = [axis for axis in eqn.params["axes"] if isinstance(axis, str)]
        if eqn.params.get("axis_index_groups") is not None or len(axes) != len(eqn.params["axes"]):
            raise OpaqueError("a sum over groups")
        reduce = {"sum": jax.numpy.sum, "max": jax.numpy.max, "min": jax.numpy.min}[_SUMS[eqn.primitive.name]]
        stack = self.interpreter.stack_of(eqn, outer, name)
        found: dict[tuple[int, ...], list[Value]] = {}
        outputs = []
        for place in self.places:
            group = tuple(i for i, other in enumerate(self.places)
                          if all(other[axis] == place[axis] for axis in self.sizes if axis not in axes))  # fmt: skip
            if group not in found:
                found[group] = [
                    self.interpreter.derived(
                        _SUMS[eqn.primitive.name],
                        [given[i][k] for i in group],
                        reduce(jax.numpy.stack([given[i][k][0] for i in group]), axis=0),
                        stack,
                    )
                    for k in range(len(given[0]))
                ]
            outputs.append(found[group])
        return outputs

    def _axis_indices(self, axis: Any) -> list[int]:
        names = axis if isinstance(axis, tuple) else (axis,)
        indices = []
        for place in self.places:
            index = 0
            for name in names:
                index = index * self.sizes[name] + place[name]
            indices.append(index)
        return indices

    # Splitting and joining --------------------------------------------------------------------------------------------

    def _part(self, value: "Value", spec: Any, place: dict[str, int]) -> "Value":
        array = value[0]
        index: list[Any] = []
        for size, names in zip(np.shape(array), self._names(spec)):
            if not names:
                index.append(slice(None))
                continue
            n_parts, at = self._at(names, place)
            index.append(slice(at * (size // n_parts), (at + 1) * (size // n_parts)))
        on_one = _on_one_device(array)
        if all(part == slice(None) for part in index):
            return on_one, value[1]
        return self.interpreter.derived("dynamic_slice", [value], on_one[tuple(index)], self.stack)

    def _joined(self, values: list["Value"], spec: Any) -> "Value":
        names = self._names(spec)
        mentioned = {name for of_axis in names for name in of_axis}
        chosen = [i for i, place in enumerate(self.places)
                  if all(place[name] == 0 for name in self.sizes if name not in mentioned)]  # fmt: skip
        if len(chosen) == 1:
            return values[chosen[0]]
        shape = list(np.shape(values[0][0]))
        whole = [size * (self._at(of_axis, self.places[0])[0] if of_axis else 1)
                 for size, of_axis in itertools.zip_longest(shape, names[: len(shape)], fillvalue=())]  # fmt: skip
        result = jax.numpy.zeros(whole, values[0][0].dtype)
        for i in chosen:
            index = []
            for size, of_axis in itertools.zip_longest(shape, names[: len(shape)], fillvalue=()):
                at = self._at(of_axis, self.places[i])[1] if of_axis else 0
                index.append(slice(at * size, (at + 1) * size))
            result = result.at[tuple(index)].set(values[i][0])
        return self.interpreter.derived("concatenate", [values[i] for i in chosen], result, self.stack)

    def _names(self, spec: Any) -> list[tuple[str, ...]]:
        """Return, for each axis of an array, the mesh's axes that it is split over."""
        if isinstance(spec, dict):  # before 0.7: array axis -> names
            return [tuple(spec.get(i, ())) for i in range(max(spec, default=-1) + 1)]
        return [() if part is None else (part,) if isinstance(part, str) else tuple(part) for part in spec]

    def _at(self, names: Sequence[str], place: dict[str, int]) -> tuple[int, int]:
        n_parts, at = 1, 0
        for name in names:
            n_parts, at = n_parts * self.sizes[name], at * self.sizes[name] + place[name]
        return n_parts, at


def _on_one_device(value: Any) -> Any:
    array = to_numpy(value)
    return value if array is None else jax.numpy.asarray(array)


def anywhere(values: Sequence[Any]) -> list[Any]:
    """Return arrays as ones that are bound to no device, so that a `shard_map` may spread them anew."""
    arrays = [to_numpy(value) for value in values]
    return [value if array is None else array for value, array in zip(values, arrays, strict=True)]


def _exchanges(eqn: Any) -> bool:
    """Whether an equation, or one within it, speaks of the mesh's axes."""
    params = eqn.params
    if params.get("axis_name") is not None or any(isinstance(axis, str) for axis in _listed(params.get("axes"))):
        return True
    for value in params.values():
        for part in _listed(value):
            jaxpr = getattr(part, "jaxpr", part)
            if hasattr(jaxpr, "eqns") and any(_exchanges(inner) for inner in jaxpr.eqns):
                return True
    return False


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)


_MAX_BYTES = 64 * 2**20
_CHUNK = 2**20
_WAIT_MS = 30_000


class Hosts:
    """This process among the others of its job."""

    def __init__(self) -> None:
        self.n_gathered = 0
        self._owners: dict[tuple[int, ...], Any] = {}

    @property
    def is_joint(self) -> bool:
        """Whether the processes have looked into a step together: the first one reports for all."""
        return self.n_gathered > 0

    @contextmanager
    def whole(self, call: "Call") -> Iterator[None]:
        """Let a call have whole arrays in the place of those on several hosts. Raises where that cannot be done."""
        before = call.leaves, call.outputs
        places = [(n, i) for n, leaves in enumerate(before) for i, leaf in enumerate(leaves) if _is_spread(leaf)]
        if not places:
            yield
            return
        spread = [before[n][i] for n, i in places]
        if sum(leaf.nbytes for leaf in spread) > _MAX_BYTES:
            raise RuntimeError(f"the step's arrays on all hosts take more than {_MAX_BYTES / 2**20:.0f} MiB")
        self.n_gathered += 1
        call.leaves, call.outputs = list(call.leaves), list(call.outputs)
        try:
            for (n, i), array in zip(places, self._exchanged(spread), strict=True):
                (call.leaves, call.outputs)[n][i] = array
            yield
        finally:
            call.leaves, call.outputs = before

    def _exchanged(self, spread: list[Any]) -> list[Any]:
        from jax._src import distributed

        client = distributed.global_state.client
        key = f"whynan/{self.n_gathered}"
        data = pickle.dumps([_parts(leaf) for leaf in spread])
        starts = range(0, len(data), _CHUNK)
        for n, start in enumerate(starts):
            client.key_value_set_bytes(f"{key}/{jax.process_index()}/{n}", data[start : start + _CHUNK])
        client.key_value_set_bytes(f"{key}/{jax.process_index()}", str(len(starts)).encode())
        wholes = [np.empty(leaf.shape, leaf.dtype) for leaf in spread]
        for rank in range(jax.process_count()):
            n_chunks = int(client.blocking_key_value_get_bytes(f"{key}/{rank}", _WAIT_MS))
            chunks = [client.blocking_key_value_get_bytes(f"{key}/{rank}/{n}", _WAIT_MS) for n in range(n_chunks)]
            # Written by the same program: the store is the one that its own processes trust.
            for whole, parts in zip(wholes, pickle.loads(b"".join(chunks)), strict=True):
                for index, part in parts:
                    whole[index] = part
        self._owners |= {leaf.shape: leaf.sharding for leaf in spread if leaf.ndim}
        return wholes

    def owner_of(self, shape: tuple[int, ...], row: int) -> int | None:
        """Return the process on whose devices a row of an array of this shape was."""
        sharding = self._owners.get(shape)
        for device, index in sharding.devices_indices_map(shape).items() if sharding is not None else ():
            if row in range(*index[0].indices(shape[0])):
                return int(device.process_index)
        return None


def _is_spread(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and leaf.dtype.kind in "biufcV"


def _parts(leaf: Any) -> list[tuple[Any, Any]]:
    return [(shard.index, np.asarray(shard.data)) for shard in leaf.addressable_shards if shard.replica_id == 0]
