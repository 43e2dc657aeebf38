"""Runs a step's jaxpr equation by equation and notes each as an operation.

What a compiled function or a rematerialised part holds is run in place; a branch of `cond` is the one that is taken;
`while` and `scan` run as a whole, and iteration by iteration where something is not finite in them. An operation's
phase is told afterwards: what the loss was made from is the forward pass.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from types import CodeType
from typing import Any

import jax
import numpy as np

from whynan.adapters.common.arrays import all_finite, to_numpy
from whynan.adapters.common.graph import Graph, Node
from whynan.adapters.common.positions import called_name, plain_name
from whynan.adapters.jax.shards import Literal, OpaqueError, Shards, anywhere, bind, frames_of, name_stack_of, own_lines
from whynan.launch.host import is_user_file, tell
from whynan.records import SourceLine
from whynan.trace import Frame

LOSS_TAG = "whynan_loss"
_SINGULAR = frozenset("pow sqrt rsqrt cbrt log log1p div acos asin atanh acosh".split())  # noqa: SIM905
LAYER_TAG = "whynan_layer_"
_LAYER = re.compile(rf"{LAYER_TAG}(\d+)")
_INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
            "remat": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr",
            "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr", "custom_lin": "",
            "custom_gradient_call": "call_jaxpr"}  # fmt: skip
_MAX_ITERATIONS = 400
_MAX_OPS = 60_000
Value = tuple[Any, int]
RULE_TAG = "whynan_rule_"
_RULE = re.compile(rf"{RULE_TAG}(\d+)")
_rules: list[tuple[str, list[tuple[str, tuple[Frame, ...]]]]] = []
"""Hand-written backward rules of the step under way: name, and each operation's primitive and own frames."""


def note_rule(rule: Any, given: Any) -> str:
    """Trace a backward rule by itself, for the lines of its operations; return the scope that it is to run in."""
    operations = []
    leaves, tree = jax.tree_util.tree_flatten(given)
    try:
        jaxpr = jax.make_jaxpr(lambda *leaves: rule(*jax.tree_util.tree_unflatten(tree, leaves)))
        shapes = [jax.ShapeDtypeStruct(jax.numpy.shape(leaf), jax.numpy.result_type(leaf)) for leaf in leaves]
        with own_lines():
            operations = [(eqn.primitive.name, _stack(eqn, (), None)) for eqn in jaxpr(*shapes).jaxpr.eqns]
    except Exception as error:
        tell(f"looking into {getattr(rule, '__name__', 'a backward rule')} failed", error)
    _rules.append((str(getattr(rule, "__name__", "backward rule")), operations))
    return f"{RULE_TAG}{len(_rules) - 1}"


class Interpreter:
    """Evaluates jaxprs into `graph`. `layers` are what the marks in the name stack stand for."""

    def __init__(self, layers: Sequence[tuple[str, str, SourceLine | None]] = ()) -> None:
        self.graph = Graph()
        self.layers = layers
        self.losses: list[int] = []
        self._n_values = 0
        self._keys: dict[int, Any] = {}
        self._custom: dict[int, str] = {}
        self._stacks: dict[int, str] = {}
        self._outer_names: list[str] = []

    def number(self) -> int:
        self._n_values += 1
        return self._n_values

    def run(self, closed: Any, values: Sequence[Value]) -> list[Value]:
        return self._jaxpr(closed.jaxpr, [self.constant(c) for c in closed.consts], values, ())

    def constant(self, value: Any) -> Value:
        number = self.number()
        array = to_numpy(value)
        if array is not None and not all_finite(array):
            self.graph.bad[number] = array
        if type(value).__name__ == "TypedNdArray":  # it may belong to a mesh that the interpreter is not on
            value = np.asarray(value)
        return value, number

    def _jaxpr(self, jaxpr: Any, consts: Sequence[Value], values: Sequence[Value], outer: tuple[Frame, ...],
               name: str | None = None) -> list[Value]:  # fmt: skip
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts))
        env.update(zip(jaxpr.invars, values))

        def read(atom: Any) -> Value:
            return self.constant(atom.val) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            given = [read(atom) for atom in eqn.invars]
            outputs = self.equation(eqn, given, outer, name)
            env.update(zip(eqn.outvars, outputs))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, given: list[Value], outer: tuple[Frame, ...], name: str | None) -> list[Value]:
        self._outer_names.append(name_stack_of(eqn))
        try:
            return self._evaluate(eqn, given, outer, name)
        finally:
            self._outer_names.pop()

    def _evaluate(self, eqn: Any, given: list[Value], outer: tuple[Frame, ...], name: str | None) -> list[Value]:
        primitive = eqn.primitive.name
        stack = _stack(eqn, outer, name)
        inner = self.inlined(eqn)
        if inner is not None:
            jaxpr, consts = inner
            return self._jaxpr(jaxpr, consts, given[-len(jaxpr.invars) :] if jaxpr.invars else [], stack,
                               str(eqn.params.get("name", "")))  # fmt: skip
        if primitive == "cond":
            branches = eqn.params["branches"]
            index = min(max(int(given[0][0]), 0), len(branches) - 1)
            branch = branches[index]
            return self._jaxpr(branch.jaxpr, [self.constant(c) for c in branch.consts], given[1:], stack)
        values = [value for value, _ in given]
        outputs = bind(eqn, anywhere(values) if primitive == "shard_map" else values)
        arrays = [to_numpy(output) for output in outputs]
        is_bad = any(array is not None and not all_finite(array) for array in arrays)
        if is_bad and len(self.graph.nodes) < _MAX_OPS:
            if primitive == "scan":
                return self._scan(eqn, given, stack)
            if primitive == "while":
                return self._while(eqn, given, stack)
            if primitive == "shard_map":
                try:
                    return Shards(self, eqn.params, stack).run(eqn.params, given)
                except OpaqueError:
                    pass
        return self._note(eqn, primitive, given, outputs, arrays, stack)

    def inlined(self, eqn: Any) -> tuple[Any, list[Value]] | None:
        """Return what an equation that only calls stands for: a jaxpr and the values of its constants."""
        inner = eqn.params.get(_INLINED[eqn.primitive.name]) if eqn.primitive.name in _INLINED else None
        if inner is None:
            return None
        closed = inner if hasattr(inner, "consts") else None
        return (closed.jaxpr, [self.constant(c) for c in closed.consts]) if closed is not None else (inner, [])

    def stack_of(self, eqn: Any, outer: tuple[Frame, ...], name: str | None) -> tuple[Frame, ...]:
        return _stack(eqn, outer, name)

    def _note(
        self, eqn: Any, primitive: str, given: list[Value], outputs: list[Any], arrays: list[Any],
        stack: tuple[Frame, ...],
    ) -> list[Value]:  # fmt: skip
        numbers = [self.number() for _ in outputs]
        index = len(self.graph.nodes)
        names = "/".join(self._outer_names)
        mark = _LAYER.findall(names)
        module, module_type, made = self.layers[int(mark[-1])] if mark else (None, None, None)
        rule = _RULE.findall(names)
        if rule:
            self._custom[index], stack = _own_frames(int(rule[-1]), primitive, stack)
        node = Node(
            index=index,
            name=plain_name(primitive),
            framework_op=primitive,
            phase="forward",
            stack=stack,
            inputs=tuple(number for _, number in given),
            outputs=tuple(numbers),
            module=module,
            module_type=module_type,
            made=made,
            called=called_name(stack[0]) if stack else None,
            args=_args(eqn.params, primitive),
        )
        self._stacks[index] = names
        self._keys[index] = _key(eqn)
        self.graph.add(node, lambda: [to_numpy(value) for value, _ in given], arrays)
        if primitive == "name" and eqn.params.get("name") == LOSS_TAG:
            self.losses.append(numbers[0])
        return list(zip(outputs, numbers))

    # Loops ------------------------------------------------------------------------------------------------------------

    def _scan(self, eqn: Any, given: list[Value], stack: tuple[Frame, ...]) -> list[Value]:
        params = eqn.params
        n_consts, n_carry, length = params["num_consts"], params["num_carry"], params["length"]
        consts, carry, xs = given[:n_consts], given[n_consts : n_consts + n_carry], given[n_consts + n_carry :]
        body = params["jaxpr"]
        steps = range(length - 1, -1, -1) if params["reverse"] else range(length)
        ys: list[list[Value]] = []
        for i in list(steps)[:_MAX_ITERATIONS]:
            slices = [self.derived("dynamic_slice", [x], x[0][i], stack) for x in xs]
            out = self._jaxpr(body.jaxpr, [self.constant(c) for c in body.consts], [*consts, *carry, *slices], stack)
            carry = out[:n_carry]
            ys.append(out[n_carry:])
        if len(ys) < length:
            return self._note(eqn, "scan", given, outputs := bind(eqn, [v for v, _ in given]),
                              [to_numpy(o) for o in outputs], stack)  # fmt: skip
        if params["reverse"]:
            ys.reverse()
        stacked = []
        for column in zip(*ys):
            value = jax.numpy.stack([value for value, _ in column])
            stacked.append(self.derived("concatenate", list(column), value, stack))
        return [*carry, *stacked]

    def _while(self, eqn: Any, given: list[Value], stack: tuple[Frame, ...]) -> list[Value]:
        params = eqn.params
        n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
        cond_consts, body_consts, carry = given[:n_cond], given[n_cond : n_cond + n_body], given[n_cond + n_body :]
        cond, body = params["cond_jaxpr"], params["body_jaxpr"]
        for _ in range(_MAX_ITERATIONS):
            again = self._jaxpr(cond.jaxpr, [self.constant(c) for c in cond.consts], [*cond_consts, *carry], stack)
            goes_on = again[0][0]
            if not np.asarray(goes_on).any():
                return carry
            new = self._jaxpr(body.jaxpr, [self.constant(c) for c in body.consts], [*body_consts, *carry], stack)
            # Under vmap each member of the batch has its own end: one that has come to it keeps its values.
            carry = [self._chosen(again[0], n, o, stack) for n, o in zip(new, carry)] if np.ndim(goes_on) else new
        outputs = bind(eqn, [value for value, _ in given])
        return self._note(eqn, "while", given, outputs, [to_numpy(o) for o in outputs], stack)

    def _chosen(self, again: Value, new: Value, old: Value, stack: tuple[Frame, ...]) -> Value:
        shape = np.shape(again[0]) + (1,) * (np.ndim(new[0]) - np.ndim(again[0]))
        value = jax.numpy.where(jax.numpy.reshape(again[0], shape), new[0], old[0])
        return self.derived("where", [again, old, new], value, stack)

    def derived(self, name: str, given: list[Value], value: Any, stack: tuple[Frame, ...]) -> Value:
        number = self.number()
        node = Node(len(self.graph.nodes), name, name, "forward", stack, tuple(n for _, n in given), (number,))
        self.graph.add(node, lambda: [to_numpy(v) for v, _ in given], [to_numpy(value)])
        return value, number

    # Phases -----------------------------------------------------------------------------------------------------------

    def tell_phases(self) -> None:
        """What a loss was made from is forward; what else a derivative has made is backward; the rest is the update."""
        if not self.losses:
            return
        nodes = self.graph.nodes
        forward: set[int] = set()
        todo = [index for loss in self.losses if (index := self.graph.producer.get(loss)) is not None]
        while todo:
            index = todo.pop()
            if index not in forward:
                forward.add(index)
                todo += [p for value in nodes[index].inputs if (p := self.graph.producer.get(value)) is not None]
        last = max(forward, default=0)
        by_key: dict[Any, list[int]] = {}
        by_place: dict[Any, list[int]] = {}
        for index in sorted(forward):
            by_key.setdefault(self._keys.get(index), []).append(index)
            by_place.setdefault(_place(nodes[index]), []).append(index)
        for node in nodes:
            names = self._stacks.get(node.index, "")
            if node.index in forward:
                slope = self._slope_of(node, by_place[_place(node)]) if names.count("jvp(") > 1 else None
                if slope is not None:
                    op = f"gradient of {nodes[slope].framework_op} ({node.framework_op})"
                    nodes[node.index] = replace(node, phase="backward", forward=slope, framework_op=op)
                continue
            if "rematted_computation" in names:
                same = by_key.get(self._keys.get(node.index), [])
                if any((nodes[i].framework_op, nodes[i].args) == (node.framework_op, node.args) for i in same):
                    same.append(node.index)  # the forward pass once more; what follows is its derivative
                    continue
            if "transpose(" in names or "jvp(" in names or "linearize" in names:
                source = _forward_of(node, by_key.get(self._keys.get(node.index), []), nodes)
                op = node.framework_op
                custom = self._custom.get(node.index)
                source = None if custom is not None else source
                if source is not None:
                    op = f"gradient of {nodes[source].framework_op} ({op})"
                nodes[node.index] = replace(node, phase="backward", forward=source, framework_op=op, custom=custom)
                self.graph.gradients.update(node.outputs)
            elif node.index > last:
                nodes[node.index] = replace(node, phase="optimizer")

    def _slope_of(self, node: Node, same: list[int]) -> int | None:
        """Return the operation whose slope a derivative inside of the loss computes here: one of the same place that
        is singular somewhere, of another kind or what this one is made from."""
        if not node.stack:
            return None
        first = next((i for i in same if self.graph.nodes[i].name in _SINGULAR), node.index)
        makers = {self.graph.producer.get(value) for value in node.inputs}
        is_slope = first < node.index and (self.graph.nodes[first].name != node.name or not makers.isdisjoint(same))
        return first if is_slope else None


def _place(node: Node) -> tuple[Any, int] | None:
    """Return the user's instruction that an operation belongs to."""
    return (node.stack[0].code, node.stack[0].lasti) if node.stack else None


def _own_frames(rule: int, primitive: str, stack: tuple[Frame, ...]) -> tuple[str, tuple[Frame, ...]]:
    """Return a rule's name, and the frames of its next operation of that kind."""
    name, operations = _rules[rule]
    for place, (other, frames) in enumerate(operations):
        if other == primitive:
            del operations[: place + 1]
            return name, (*frames, *stack)
    return name, stack


def _forward_of(node: Node, candidates: list[int], nodes: list[Node]) -> int | None:
    """Return the forward operation of a derivative's: made in the same frames; of several the one that has a slope."""
    if not candidates:
        return None
    singular = [i for i in candidates if nodes[i].name not in ("reshape", "broadcast_in_dim", "convert_element_type",
                                                               "squeeze", "transpose", "identity", "copy")]  # fmt: skip
    return (singular or candidates)[-1]


def _key(eqn: Any) -> Any:
    codes, lasti = frames_of(eqn)
    found = []
    for code, instruction in zip(codes, lasti):
        if "/jax/_src/" in code.co_filename and ("/core.py" in code.co_filename or "/interpreters/" in code.co_filename
                                                 or "source_info" in code.co_filename):  # fmt: skip
            continue
        found.append((id(code), instruction))
        if len(found) >= 6:
            break
    return tuple(found)


def _stack(eqn: Any, outer: tuple[Frame, ...], name: str | None) -> tuple[Frame, ...]:
    """Return the user's frames of an equation.

    A compiled function is traced once and used again: what lies outside of it is then another caller's. What
    `remat` and `shard_map` hold has no name, and often only the frames inside of it.
    """
    codes, lasti = frames_of(eqn)
    found = []
    is_whole = False
    for code, instruction in zip(codes, lasti):
        if code.co_filename.endswith(_OUR_ENTRY):
            is_whole = True
            break
        if is_user_file(code.co_filename):
            found.append(Frame(code.co_filename, _line(code, instruction), code.co_name, code, instruction))
    if name is None or not outer:
        return tuple(found) or outer
    if _ends_with(found, outer):
        return tuple(found)
    if not name and found:
        return tuple(found) if is_whole else (*found, *outer)
    inside = next((i for i, frame in enumerate(found) if frame.function == name), None)
    return (*found[: inside + 1], *outer) if inside is not None else outer


_OUR_ENTRY = ("whynan/adapters/jax/replay.py", "whynan/adapters/jax/watch.py")


def _ends_with(found: list[Frame], outer: tuple[Frame, ...]) -> bool:
    tail = found[len(found) - len(outer) :] if len(found) >= len(outer) else []
    return bool(tail) and all(a.code is b.code and a.lasti == b.lasti for a, b in zip(tail, outer))


@lru_cache(maxsize=8192)
def _line(code: CodeType, lasti: int) -> int:
    positions = list(code.co_positions())
    place = positions[lasti // 2] if 0 <= lasti // 2 < len(positions) else (None,)
    return place[0] or code.co_firstlineno


def _args(params: dict[str, Any], primitive: str) -> dict[str, Any]:
    found: dict[str, Any] = {k: v for k, v in params.items() if isinstance(v, (bool, int, float, np.number))}
    if primitive == "integer_pow" and "y" in params:
        found["exponent"] = params["y"]
    return found
