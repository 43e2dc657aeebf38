"""A tracer leaves no mark on what it traces, and holds on to no more memory than it may."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from whynan.adapters.torch.elements import is_nonfinite
from whynan.adapters.torch.storages import Storages, key_of, values_of
from whynan.adapters.torch.trace import Tracer
from whynan.launch import host


def train(traced: bool) -> tuple[list[torch.Tensor], torch.Tensor, list[str]]:
    """Train a small model with dropout, a running statistic, an augmentation; return weights, random state, graph."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(1, 4, 3), torch.nn.BatchNorm1d(4), torch.nn.ReLU(inplace=True), torch.nn.Flatten(),
        torch.nn.Dropout(0.5), torch.nn.Linear(24, 2),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    tracer = Tracer()
    graph: list[str] = []
    tracer.modules.enter()
    if traced:
        tracer.__enter__()
    for step in range(4):
        x = torch.rand(6, 1, 8)
        x[step] *= 1e30 if step == 3 else 1.0
        loss = F.cross_entropy(model(x), torch.randint(2, (6,)))
        optimizer.zero_grad()
        loss.backward()
        graph = names_of(loss.grad_fn)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    if traced:
        tracer.__exit__(None, None, None)
        assert tracer.trace.n_ops > 100 and tracer.trace.n_failed == 0, tracer.trace.failure
    tracer.modules.leave()
    return [value.detach().clone() for value in model.state_dict().values()], torch.get_rng_state(), graph


def names_of(node) -> list[str]:
    todo, names = [node], []
    while todo:
        node = todo.pop()
        if node is not None:
            names.append(node.name())
            todo.extend(child for child, _ in node.next_functions)
    return names


def test_same_results_bit_for_bit():
    plain, plain_random, plain_graph = train(False)
    traced, traced_random, traced_graph = train(True)
    for one, other in zip(plain, traced, strict=True):
        assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) and torch.equal(one.isnan(), other.isnan())
    assert torch.equal(plain_random, traced_random)
    assert plain_graph == traced_graph


def test_nothing_is_left_when_the_trace_ends():
    hooks = torch.nn.modules.module._global_forward_hooks, torch.nn.modules.module._global_forward_pre_hooks
    before = [dict(registry) for registry in hooks]
    train(True)
    assert _get_current_dispatch_mode_stack() == []
    assert [dict(registry) for registry in hooks] == before
    assert not torch.is_anomaly_enabled()


def test_an_exception_passes_through():
    tracer = Tracer()
    with pytest.raises(RuntimeError, match="shapes"), tracer:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert _get_current_dispatch_mode_stack() == []


def test_versions_and_saved_tensors_are_untouched():
    x = torch.ones(3, requires_grad=True)
    y = torch.zeros(3)
    with Tracer():
        z = (x * y).exp()
        version = z._version
        z.sum().backward()
    assert (x._version, y._version, z._version) == (0, 0, version)


def test_the_users_own_mode_sees_its_own_ops_only():
    seen: list[str] = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    def compute() -> None:
        with Mode():
            (torch.zeros(2).log() * 0).sum()

    compute()
    plain = seen[:]
    seen.clear()
    with Tracer():
        compute()
    assert seen == plain


def test_a_paused_tracer_sees_nothing():
    tracer = Tracer()
    with tracer:
        torch.zeros(1).log()
        n_ops = tracer.trace.n_ops
        tracer.pause()
        torch.zeros(1).log()
    assert tracer.trace.n_ops == n_ops and len(tracer.trace.records) == 1


def test_what_depends_on_parameters():
    weight, other = torch.ones(2, requires_grad=True), torch.ones(2)
    tracer = Tracer()
    tracer.taint([weight])
    with tracer:
        loss, metric = (weight * 2).sum(), (other * 2).sum()
        view = (weight * 3)[:1]
        other.add_(weight.detach())
    assert tracer.depends_on_parameters(loss) and tracer.depends_on_parameters(view)
    assert not tracer.depends_on_parameters(metric)
    assert tracer.depends_on_parameters(other)


def test_memory_is_bounded():
    storages = Storages(kept_bytes=1000)
    tensors = [torch.full((50,), torch.inf) for _ in range(10)]
    for index, tensor in enumerate(tensors):
        storages.begin(tensor, key_of(tensor))
        storages.wrote_nonfinite(tensor, index)
    assert storages.n_kept == 5
    references = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
    del tensors, tensor
    gc.collect()
    assert [reference.expired() for reference in references] == [False] * 5 + [True] * 5


def test_what_was_freed_is_forgotten():
    storages = Storages(kept_bytes=0)
    tensor = torch.full((50,), torch.inf)
    key = key_of(tensor)
    storages.begin(tensor, key)
    storages.wrote(key, 7)
    storages.wrote_nonfinite(tensor, 7)
    assert key in storages and storages.find(tensor, 3) == 7 and storages.writer(tensor) == 7
    del tensor
    assert key not in storages
    assert not storages.is_same(key) or key not in storages.last_writer


def test_views_count_as_their_storage():
    storages = Storages()
    tensor = torch.zeros(4, 3)
    storages.wrote_nonfinite(tensor[:, 1], 5)
    storages.wrote_nonfinite(tensor[2], 6)
    owners = [[storages.find(tensor, tensor[i, j].storage_offset()) for j in range(3)] for i in range(4)]
    assert owners == [[None, 5, None], [None, 5, None], [6, 6, 6], [None, 5, None]]


def test_sparse_tensors_are_known_by_their_values():
    sparse = torch.eye(3).to_sparse()
    assert values_of(sparse).shape == (3,) and not is_nonfinite(values_of(sparse))
    dense = torch.ones(2)
    assert values_of(dense) is dense


def test_logdet_is_named(monkeypatch):
    monkeypatch.setitem(host.user_codes, __file__, [])
    matrix = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    with Tracer() as tracer:
        torch.logdet(matrix)
    first = min(tracer.trace.records.values(), key=lambda record: record.index)
    assert (first.name, first.literal, first.inputs[0].shape) == ("logdet", False, (2, 2))
    with Tracer() as tracer:
        torch.where(torch.linalg.slogdet(matrix).sign > 0, 0.0, torch.nan)
    assert not any(record.name == "logdet" for record in tracer.trace.records.values())


def test_a_long_trace_keeps_little_alive():
    tracer = Tracer()
    tracer.storages = Storages(kept_bytes=4096)
    with tracer:
        x = torch.full((100,), torch.inf)
        alive = []
        for _ in range(100):
            x = x + 1
            alive.append(StorageWeakRef(x.untyped_storage()))
    del x
    gc.collect()
    assert sum(not reference.expired() for reference in alive) <= 4096 // 400
