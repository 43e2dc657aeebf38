"""The Python interface: around a step, on a function, in a notebook's cell."""

import linecache
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import whynan
from whynan.errors import UsageError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def parts() -> Any:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.rand(40, 3) + 0.1, torch.rand(40)
    x[17] = 0.0
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    return model, optimizer, loader


def loss_of(model: Any, x: Any, y: Any) -> Any:
    weight = torch.log(x.sum(1))  # BAD
    return ((model(x).squeeze(1) - y) ** 2 * weight).mean()


def bad_line() -> int:
    lines = linecache.getlines(__file__)
    return 1 + next(n for n, line in enumerate(lines) if line.endswith("# BAD\n"))


def check(report: whynan.Report, step: int = 4) -> None:
    assert report.outcome == "non-finite"
    assert report.origin is not None
    assert (report.origin.op, report.origin.source.line) == ("log", bad_line())
    assert report.causes[0].slug == "log-of-zero"
    assert [sample.index for sample in report.samples] == [17]
    assert report.incidents[0].symptom.step == step
    assert any(remedy.proved for remedy in report.remedies)


def test_around_a_step(parts: Any) -> None:
    model, optimizer, loader = parts
    watched = whynan.watch(model, optimizer)
    with pytest.raises(whynan.NonFiniteError) as caught:
        for x, y in loader:
            with watched:
                loss = loss_of(model, x, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    check(caught.value.report)
    assert "test_watch.py" in str(caught.value) and "log" in str(caught.value)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_recovery_around_a_step(parts: Any) -> None:
    model, optimizer, loader = parts
    events: list[dict[str, Any]] = []
    watched = whynan.watch(model, optimizer, policy="recover", prove=False, on_event=events.append)
    losses = []
    for _ in range(2):
        for x, y in loader:
            with watched:
                loss = loss_of(model, x, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    report = watched.report
    watched.close()
    assert len(losses) == 19 and all(math.isfinite(loss) for loss in losses)  # once skipped, then without the sample
    assert [event["event"] for event in events] == ["incident"]
    assert "left out" in report.incidents[0].action


def test_on_the_function_that_makes_a_step(parts: Any) -> None:
    model, optimizer, loader = parts

    @whynan.watch(model, optimizer)
    def step(x: Any, y: Any, scale: float = 1.0) -> float:
        loss = loss_of(model, x, y) * scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    made = []
    with pytest.raises(whynan.NonFiniteError) as caught:
        for x, y in loader:
            made.append(step(x, y, scale=2.0))
    assert len(made) == 4 and all(isinstance(loss, float) for loss in made)
    check(caught.value.report)


def test_on_a_function_that_holds_the_loop(parts: Any) -> None:
    model, optimizer, loader = parts

    @whynan.watch(model, optimizer, policy="recover", prove=False)
    def train(n_epochs: int) -> int:
        n_steps = 0
        for _ in range(n_epochs):
            for x, y in loader:
                loss = loss_of(model, x, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                n_steps += 1
        return n_steps

    assert train(2) == 19
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_observing_changes_nothing(parts: Any) -> None:
    model, optimizer, loader = parts
    watched = whynan.watch(model, optimizer, policy="observe", prove=False)
    for x, y in loader:
        with watched:
            loss = loss_of(model, x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    report = watched.report
    watched.close()
    assert report.origin is not None and report.origin.source.line == bad_line()
    assert not all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_healthy_loop_has_a_healthy_report(parts: Any, tmp_path: Path) -> None:
    model, optimizer, _ = parts
    with whynan.watch(model, optimizer, out=tmp_path / "out") as watched:
        model(torch.ones(2, 3)).mean().backward()
        optimizer.step()
    assert watched.report.outcome == "healthy"
    assert watched.report.origin is None and watched.report.causes == ()
    watched.close()
    assert (tmp_path / "out" / "report.json").exists()


def test_an_exception_of_ones_own_passes(parts: Any) -> None:
    model, optimizer, _ = parts
    watched = whynan.watch(model, optimizer)
    with pytest.raises(KeyError, match="mine"), watched:
        raise KeyError("mine")
    watched.close()


def test_the_report_shows_itself(parts: Any) -> None:
    model, optimizer, loader = parts
    watched = whynan.watch(model, optimizer, prove=False)
    with pytest.raises(whynan.NonFiniteError) as caught:
        for x, y in loader:
            with watched:
                loss_of(model, x, y).backward()
                optimizer.step()
    report = caught.value.report
    assert repr(report).startswith("<whynan report: ")
    assert report._repr_html_().startswith("<iframe")
    assert report.to_json()["schema"] == "whynan.report/1"


def test_parts_that_are_none_are_named() -> None:
    with pytest.raises(UsageError, match="list"):
        whynan.watch([1, 2])


def test_nothing_is_written_where_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for policy in ("observe", "recover"):
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watched = whynan.watch(model, optimizer, policy=policy, prove=False)
        for x in (torch.ones(4, 2), torch.full((4, 2), float("nan"))):
            with watched:
                optimizer.zero_grad()
                model(x).mean().backward()
                optimizer.step()
        assert len(watched.report.incidents) == 1
        watched.close()
    assert list(tmp_path.iterdir()) == []
