"""Containers, objects and names are as they were once a snapshot is restored."""

import random
import sys
from collections import deque

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whynan.snapshot import GlobalRandomState, NamesSnapshot, ObjectsSnapshot


class Mine:
    def __init__(self, **attributes):
        vars(self).update(attributes)


def is_mine(kind):
    return kind is Mine


SCALARS = st.one_of(st.integers(), st.text(max_size=3), st.none())
CONTAINERS = st.recursive(
    st.one_of(SCALARS, st.sets(st.integers(), max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=2), inner, max_size=4),
        st.lists(inner, max_size=3).map(deque),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda fields: Mine(**fields)),
    ),
    max_leaves=8,
)


def frozen(value):
    """Return what a value holds, two levels deep and by value."""
    if isinstance(value, (list, deque)):
        return (type(value).__name__, [frozen(item) for item in value])
    if isinstance(value, dict):
        return ("dict", [(key, frozen(item)) for key, item in value.items()])
    if isinstance(value, Mine):
        return ("Mine", [(key, frozen(item)) for key, item in vars(value).items()])
    return set(value) if isinstance(value, set) else value


def mutate(value, rng):
    """Change a container and what it holds in some ways, in place."""
    if isinstance(value, (list, deque)):
        for item in list(value):
            mutate(item, rng)
        rng.choice([value.clear, value.reverse, lambda: value.append(rng), lambda: None])()
    elif isinstance(value, (dict, Mine)):
        items = value if isinstance(value, dict) else vars(value)
        for item in list(items.values()):
            mutate(item, rng)
        rng.choice([items.clear, lambda: items.update(new=rng), lambda: None])()
    elif isinstance(value, set):
        rng.choice([value.clear, lambda: value.add(-12345)])()


@given(CONTAINERS, st.randoms(use_true_random=False))
def test_containers_and_objects(value, rng):
    holder = [value]
    snapshot = ObjectsSnapshot([holder, value], is_mine)
    depth = _depth(value)
    before = frozen(holder)
    mutate(holder, rng)
    snapshot.restore()
    if depth <= 2:  # deeper ones are not copied
        assert frozen(holder) == before


def _depth(value):
    if isinstance(value, (list, deque, dict, Mine)):
        items = (
            vars(value).values() if isinstance(value, Mine) else value.values() if isinstance(value, dict) else value
        )
        return 1 + max((_depth(item) for item in items), default=0)
    return 1 if isinstance(value, set) else 0


def test_a_long_list_that_grows():
    values = list(range(5000))
    snapshot = ObjectsSnapshot([values], is_mine)
    values += [1, 2, 3]
    snapshot.restore()
    assert values == list(range(5000))


def test_generators():
    generator = random.Random(3)
    snapshot = ObjectsSnapshot([generator], is_mine)
    first = generator.random()
    snapshot.restore()
    assert generator.random() == first


def test_global_streams():
    state = GlobalRandomState()
    first = random.random()
    state.restore()
    assert random.random() == first


def test_names_of_a_function():
    def body():
        count, total = 1, [2]
        frame = sys._getframe()
        snapshot = NamesSnapshot(frame, ["count", "total", "later"], dict(frame.f_locals))
        count, total, later = 5, None, 6
        assert (count, total, later) == (5, None, 6)
        snapshot.restore(frame)
        return count, total

    assert body() == (1, [2])


def test_names_of_a_module():
    namespace = {"count": 1, "__name__": "train"}
    code = compile("frame = __import__('sys')._getframe()", "train.py", "exec")
    exec(code, namespace)
    frame = namespace["frame"]
    snapshot = NamesSnapshot(frame, ["count", "later"], dict(namespace))
    namespace.update(count=7, later=8)
    snapshot.restore(frame, {"batch": 9})
    assert namespace["count"] == 1 and "later" not in namespace and namespace["batch"] == 9


@pytest.mark.parametrize(
    ("draws", "one"),
    [
        ((random.random, lambda: random.gauss(0, 1), lambda: random.seed(3)), lambda: random.gauss(0, 1)),
        ((numpy.random.rand, numpy.random.randn, lambda: numpy.random.seed(3)), numpy.random.randn),
    ],
    ids=["python", "numpy"],
)
def test_a_stream_is_put_back_whatever_was_drawn(draws, one):
    for draw in (lambda: None, *draws):
        draw()
        states = [GlobalRandomState()]
        one()  # the second of a pair, at times: it is drawn without a change of the generator's words
        states.append(GlobalRandomState())
        one()
        states.append(GlobalRandomState())
        expected = [[one() for _ in range(4)]]
        for state in reversed(states[:-1]):
            state.restore()
            expected.append([one() for _ in range(4)])
        for state, numbers in zip(reversed(states), expected, strict=True):
            state.restore()
            assert [one() for _ in range(4)] == numbers
    assert expected[0] != expected[1] != expected[2]
