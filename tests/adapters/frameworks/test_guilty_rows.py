"""The search for the rows of a batch that fail."""

from collections.abc import Callable

import pytest

from whynan.adapters.common.experiments import find_guilty


def batch_of(*bad: int) -> Callable[[list[int]], bool]:
    return lambda rows: bool(set(rows) & set(bad))


@pytest.mark.parametrize("size", [2, 3, 16, 33])
@pytest.mark.parametrize("guesses", [(), (0,), (1,)])
def test_one_row(size: int, guesses: tuple[int, ...]) -> None:
    for bad in range(size):
        assert find_guilty(size, batch_of(bad), guesses) == ([bad], None)


def test_a_few_rows() -> None:
    rows, note = find_guilty(32, batch_of(3, 5))
    assert rows == [3, 5]
    assert note == "2 samples of the batch fail, each by itself"


def test_rows_far_apart() -> None:
    assert find_guilty(32, batch_of(3, 29))[0] == [3, 29]


def test_many_rows() -> None:
    assert find_guilty(32, batch_of(1, 2, 3, 5, 7, 11))[0] == []
    rows, note = find_guilty(32, batch_of(*range(32)))
    assert rows == []
    assert note is not None and "no single sample" in note


def test_rows_that_fail_together_only() -> None:
    rows, note = find_guilty(16, lambda rows: {2, 13} <= set(rows))
    assert rows == []
    assert note is not None and "no single sample" in note
