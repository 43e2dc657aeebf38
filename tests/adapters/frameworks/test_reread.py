"""Data sets read a second time: which line of their own code made the bad sample, and which sample it is."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import whynan.adapters.common.data.reread as reread
from whynan.adapters.common.arrays import Part
from whynan.adapters.common.data.lines import LineWatch
from whynan.adapters.common.data.reread import Reader, of_users, repeated, running_generators
from whynan.launch import host

DATA = np.random.default_rng(0).uniform(1, 2, (12, 3))
DATA[7, 1] = 0


class Batches:
    """Four batches of three samples, in an order of their own; `n_read` is what a second reading must leave alone."""

    def __init__(self) -> None:
        self.order = np.random.default_rng(1).permutation(12)
        self.n_read = 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        self.n_read += 1
        rows = self.order[3 * index : 3 * index + 3]
        logs = np.log(DATA[rows])
        return logs, rows


@pytest.fixture(autouse=True)
def _this_file_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reread, host):
        monkeypatch.setattr(module, "is_user_file", lambda file: str(file) == __file__)
    monkeypatch.setattr(reread, "user_values", list)


def find(reader: Reader, row: Any) -> tuple[int, Any, int | None]:
    until = time.monotonic() + 20
    with np.errstate(all="ignore"), reread._as_before(reader.roots):
        number = reread._find(reader, [row], until)
        assert number is not None
        origin, index, _ = reread._traced(reader, number, [row], LineWatch(reread.is_user_file, until))
    return number, origin, index


def test_the_line_in_getitem_and_the_sample() -> None:
    data = Batches()
    place = int(np.flatnonzero(data.order == 7)[0])
    with np.errstate(all="ignore"):
        row = np.log(DATA[7])
    number, origin, index = find(next(of_users([data])), row)
    assert (number, origin.op, origin.code) == (place // 3, "log", "logs = np.log(DATA[rows])")
    assert index == 7
    assert data.n_read == 0


def test_a_generator_under_way_is_made_anew() -> None:
    def batches(table: Any) -> Iterator[Any]:
        for row in table:
            yield np.log(row)

    running = batches(DATA)
    next(running)
    readers = [r for r in running_generators() if any(root is DATA for root in r.roots)]
    assert len(readers) == 1
    with np.errstate(all="ignore"):
        number, origin, _ = find(readers[0], np.log(DATA[7]))
    assert (number, origin.op, origin.code) == (7, "log", "yield np.log(row)")
    assert np.array_equal(next(running), np.log(DATA[1]))


def test_a_generator_whose_argument_has_changed_is_left_alone() -> None:
    def batches(table: Any) -> Iterator[Any]:
        table = table[1:]
        for row in table:
            yield np.log(row)

    running = batches(DATA)
    next(running)
    assert not [r for r in running_generators() if any(getattr(root, "base", None) is DATA for root in r.roots)]


def test_random_data_is_believed_only_where_one_item_is_bad() -> None:
    rng = np.random.default_rng(3)
    until = time.monotonic() + 20

    def noisy(bad: set[int]) -> Iterator[Any]:
        for i in range(6):
            yield np.where(i in bad, np.nan, rng.normal(size=2))

    wanted = np.array([np.nan, 1.0])
    assert reread._find(repeated(lambda: noisy({4})), [wanted], until) == 4
    assert reread._find(repeated(lambda: noisy({2, 4})), [wanted], until) is None
    assert reread._wanted((Part("x", "batch", np.ones((2, 2))),), None) == []


@pytest.mark.parametrize("is_batched", [False, True])
def test_the_number_of_an_item_is_an_index_only_where_items_are_samples(is_batched: bool) -> None:
    def items() -> Iterator[Any]:
        for row in DATA.reshape(4, 3, 3) if is_batched else DATA:
            yield np.log(row)

    with np.errstate(all="ignore"):
        bad = np.log(DATA[7])
    line = reread.line_in(lambda: [repeated(items, True)], (Part("x", "batch", bad[None]),), 0, time.monotonic() + 20)
    assert line is not None
    assert line.op is not None
    assert line.op.source.code == "yield np.log(row)"
    assert line.index == (None if is_batched else 7)
