"""The random streams that data may draw from: Python's, NumPy's global one, torch's on the CPU."""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch


class RandomStates(NamedTuple):
    """The three states at one moment; `numpy` is None where NumPy had not been imported."""

    python: Any
    numpy: Any
    torch: Any


def take() -> RandomStates:
    """Copy the states; draws nothing. NumPy is not imported by this."""
    numpy_random = sys.modules.get("numpy.random")
    numpy_state = None if numpy_random is None else numpy_random.get_state()
    return RandomStates(random.getstate(), numpy_state, torch.default_generator.get_state())


def put_back(states: RandomStates) -> None:
    """Set the streams to `states`."""
    random.setstate(states.python)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None and states.numpy is not None:
        numpy_random.set_state(states.numpy)
    torch.default_generator.set_state(states.torch)


def seed_as_worker(base_seed: int, worker_id: int) -> None:
    """Seed the streams as a loader's worker process does when it starts."""
    seed = base_seed + worker_id
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        from torch.utils.data._utils.worker import _generate_state

        numpy_random.seed(_generate_state(base_seed, worker_id))


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Leave the streams as they were found, whatever the body draws."""
    states = take()
    try:
        yield
    finally:
        put_back(states)
