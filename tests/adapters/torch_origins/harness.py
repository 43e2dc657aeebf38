"""Runs one small computation under a tracer, as a replay does, and finds the origin of what went non-finite in it."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from whynan.adapters.torch.explain import slice_of
from whynan.adapters.torch.opfacts import plain_name
from whynan.adapters.torch.sites import Event
from whynan.adapters.torch.storages import key_of
from whynan.adapters.torch.trace import Tracer
from whynan.launch import host
from whynan.trace import Slice

Body = Callable[[], Any]


@dataclass
class Case:
    """What must be found. `elements` begins the origin's own; `inputs` are (min, max) of its first inputs."""

    body: Body
    op: str | None = None
    phase: str = "forward"
    elements: list[tuple[int, ...]] | None = None
    inputs: Sequence[tuple[float | None, float | None] | None] = ()
    kind: str | None = None
    custom: str | None = None
    module: str | None = None
    intended: bool | None = None
    leaf: Any = None


@dataclass
class Found:
    """What was found. `leaves` are the body's own leaf tensors in the order in which it made them."""

    slice: Slice | None
    tracer: Tracer
    symptoms: list[Any] = field(default_factory=list)


class Cases:
    """Collects computations: `@cases(op, ...)` above a function whose guilty line ends in the comment `# origin`."""

    def __init__(self) -> None:
        self.params: list[Any] = []

    def __call__(self, op: str | None = None, phase: str = "forward", **expected: Any) -> Callable[[Body], Body]:
        def add(body: Body) -> Body:
            self.params.append(pytest.param(Case(body, op, phase, **expected), id=body.__name__))
            return body

        return add


_leaves: list[Any] = []


def leaf(values: Any, *, dtype: Any = torch.float32) -> Any:
    """Return a tensor that gets a gradient; the symptom is looked for in its gradient if the loss is finite."""
    tensor = values.detach().clone() if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=dtype)
    _leaves.append(tensor.requires_grad_())
    return tensor


def watch(module: Any) -> Any:
    """Look at the gradients and buffers of a module too."""
    _leaves.extend([*module.parameters(), *module.buffers()])
    return module


def find(body: Body, prepare: Callable[[Tracer], None] = lambda tracer: None) -> Found:
    """Run the body traced; it returns a loss, or a list of the tensors that are the symptom."""
    _leaves.clear()
    file = inspect.getsourcefile(body)
    assert file is not None
    known = host.user_codes.get(file)
    host.user_codes[file] = []
    tracer = Tracer()
    prepare(tracer)
    tracer.modules.enter()
    try:
        with tracer:
            out = body()
            symptoms = [out]
            if isinstance(out, torch.Tensor) and _is_finite(out) and out.requires_grad:
                out.backward()
            if isinstance(out, (list, tuple)):
                symptoms = list(out)
            elif out is None or _is_finite(out):
                symptoms = [item for leaf in _leaves for item in (leaf.grad, leaf.detach()) if item is not None]
            tracer.pause()
            symptoms = [symptom for symptom in symptoms if not _is_finite(symptom)]
            sliced = slice_of(tracer, Event("loss", "backward", symptoms, "loss", "nan"))
    finally:
        tracer.modules.leave()
        _leaves.clear()
        if known is None:
            del host.user_codes[file]
    return Found(sliced, tracer, symptoms)


def check(case: Case) -> Found:
    """Assert that the origin found is the one that the case names."""
    found = find(case.body)
    assert found.tracer.trace.n_failed == 0, found.tracer.trace.failure
    assert found.symptoms, "the computation stayed finite"
    assert found.slice is not None, "the slice leads nowhere"
    if case.op is None:
        assert found.slice.origin is None, f"{plain_name(found.slice.origin)} is blamed for a leaf"
        assert found.slice.leaf is not None
        if case.leaf is not None:
            assert found.slice.leaf.key == key_of(case.leaf)
        return found
    record = found.slice.origin
    assert record is not None, f"a leaf is blamed: {found.slice.leaf}"
    assert (plain_name(record), record.phase, _line(record)) == (case.op, case.phase, guilty_line(case.body))
    assert record.output is not None, "an origin must come with its output"
    if case.elements is not None:
        assert list(record.elements[: len(case.elements)]) == case.elements
    for summary, expected in zip(record.inputs, case.inputs, strict=False):
        if expected is not None:
            assert (summary.min, summary.max) == pytest.approx(expected)
    assert len(record.inputs) >= len(case.inputs)
    for name in ("kind", "custom", "module"):
        if getattr(case, name) is not None:
            assert getattr(record, name) == getattr(case, name)
    if case.intended is not None:
        assert found.slice.intended is case.intended
    return found


def guilty_line(body: Body) -> int:
    """Return the number of the line marked `# origin`."""
    lines, first = inspect.getsourcelines(body)
    marked = [first + number for number, line in enumerate(lines) if line.rstrip().endswith("# origin")]
    assert len(marked) == 1, f"{body.__name__} marks {len(marked)} lines"
    return marked[0]


def describe(found: Found) -> str:
    """Return what was found in one line, for a test that is being written."""
    if not found.symptoms:
        return "finite"
    if found.slice is None:
        return "nothing found"
    if found.slice.origin is None:
        return f"leaf {found.slice.leaf.shape if found.slice.leaf else ()}"
    record = found.slice.origin
    ranges = [(s.min, s.max) for s in record.inputs]
    return f"{plain_name(record)} {record.phase} {record.kind} {list(record.elements[:3])} {ranges}"


def _line(record: Any) -> int | None:
    return record.stack[0].line if record.stack else None


def _is_finite(tensor: Any) -> bool:
    if not isinstance(tensor, torch.Tensor):
        return math.isfinite(tensor)
    values = tensor.detach()
    if values.layout != torch.strided:
        values = values.coalesce().values()
    return bool(torch.isfinite(values).all())


__all__: Iterable[str] = ("Case", "Cases", "Found", "check", "describe", "find", "guilty_line", "leaf", "watch")
