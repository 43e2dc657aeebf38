"""Steps that are recorded in this process: what `whynan check` sees of them, without a script."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from whynan.adapters.torch.check.program import Program
from whynan.adapters.torch.check.record import Recorder
from whynan.check.context import Context
from whynan.check.suspects import Suspect, find_suspects
from whynan.check.transfer import analyse
from whynan.launch import host


def recorded(step: Callable[[], Any], parameters: dict[str, Any] | None = None) -> tuple[Context, Program]:
    """Run a step that returns its loss, and return its ranges and its program."""
    file = sys._getframe(1).f_code.co_filename
    host.user_codes.setdefault(step.__code__.co_filename, [])
    host.user_codes.setdefault(file, [])
    step()  # data and weights are there before the step
    recorder = Recorder()
    recorder.parameters = {int(p.untyped_storage().data_ptr()): name for name, p in (parameters or {}).items()}
    try:
        with recorder:
            recorder.begin()
            loss = step()
            recorder.graph.roots.append(recorder.node_of(loss))
            if loss.requires_grad:
                loss.backward()
            graph, program = recorder.end()
    finally:
        host.user_codes.clear()
    assert recorder.n_failed == 0, recorder.failure
    return analyse(graph), program


def suspects_of(step: Callable[[], Any]) -> list[Suspect]:
    return find_suspects(recorded(step)[0])


@cache
def data(*shape: int, lo: float = -1.0, hi: float = 1.0) -> Any:
    """Data that reaches both ends of its range."""
    x = torch.linspace(lo, hi, torch.Size(shape).numel()).reshape(shape)
    return x[torch.arange(len(x) - 1, -1, -1)]


@cache
def weight(*shape: int) -> Any:
    return torch.full(shape, 0.1).requires_grad_()
