"""Checks stay within their share of the time; series stay within their length."""

import pytest

from whynan import watching
from whynan.watching import Budget, RunHistory, Series


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(watching, "time", clock)
    return clock


def spend(budget, clock, cost, steps, between):
    ran = 0
    for _ in range(steps):
        if budget.is_due():
            budget.begin()
            clock.now += cost
            budget.end()
            ran += 1
        clock.now += between
    return ran


def test_a_costly_check_keeps_to_its_share(clock):
    ran = spend(Budget(0.01), clock, cost=1.0, steps=1000, between=1.0)
    assert 3 <= ran <= 3 + 1000 * 0.011
    assert ran * 1.0 <= 0.02 * clock.now + 3


def test_a_cheap_check_always_runs(clock):
    assert spend(Budget(0.01, free_s=0.01), clock, cost=0.005, steps=100, between=0.001) == 100


def test_the_first_few_always_run(clock):
    assert spend(Budget(1e-9, n_first=5), clock, cost=1.0, steps=5, between=0.0) == 5


def test_recent_values_are_exact_and_all_is_bounded():
    series = Series()
    for value in range(50_000):
        series.append(float(value))
    values = series.values()
    assert values[-2048:] == tuple(float(v) for v in range(50_000 - 2048, 50_000))
    assert values[0] == 0.0 and list(values) == sorted(values)
    assert len(values) == len(series) <= 2048 + 4097


def test_a_history_names_what_it_has():
    history = RunHistory()
    history.loss.append(1.0)
    assert history.as_dict() == {"loss": (1.0,)}
