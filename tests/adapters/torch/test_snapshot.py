"""Whatever a loop's body changes is as it was once the snapshot is restored, or it is named as not restored."""

import math
import random
import sys

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whynan.adapters.torch import late
from whynan.adapters.torch.snapshot import KnownState, OptimizerCopy, Snapshot, cloned
from whynan.launch.rewrite import LoopSite


class World:
    """A program's state at the beginning of an iteration."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.model(torch.rand(4, 2)).pow(2).sum().backward()
        self.optimizer.step()
        self.total, self.count = torch.zeros(3), 0
        self.values: list[float] = [1.0, 2.0]
        self.table = {"a": [1], "b": 2}
        self.seen = {1, 2}
        self.generator = np.random.default_rng(0)
        self.torch_generator = torch.Generator().manual_seed(0)

    def namespace(self) -> dict[str, object]:
        return dict(vars(self))


def facts(world: dict[str, object]) -> list[object]:
    """Return everything that can be told of the state, comparably."""
    model, optimizer = world["model"], world["optimizer"]
    found: list[object] = [value.tolist() for value in model.state_dict().values()]
    found += [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    found += [
        {key: value.tolist() for key, value in optimizer.state[p].items()} if p in optimizer.state else None
        for p in model.parameters()
    ]
    found += [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    found += [world["total"].tolist(), world["count"], list(world["values"]), set(world["seen"])]
    found += [{key: list(v) if isinstance(v, list) else v for key, v in world["table"].items()}]
    found += [bytes(torch.get_rng_state().numpy()), random.getstate(), [x.tolist() for x in np.random.get_state()[1:2]]]
    found += [str(world["generator"].bit_generator.state), bytes(world["torch_generator"].get_state().numpy())]
    found += [module.training for module in model.modules()]
    return found


def _step(world):
    world["optimizer"].step()


def _backward(world):
    world["model"](torch.rand(4, 2)).pow(2).sum().backward()


def _set(key, value):
    return lambda world: world["optimizer"].param_groups[0].__setitem__(key, value)


def _rebind(world):
    world["count"] = 99


MUTATIONS = {
    "step": _step,
    "backward": _backward,
    "zero_grad": lambda w: w["optimizer"].zero_grad(),
    "poison": lambda w: [p.grad.fill_(float("nan")) for p in w["model"].parameters() if p.grad is not None],
    "forward": lambda w: w["model"](torch.full((4, 2), float("nan"))),
    "lr": _set("lr", 5.0),
    "new option": _set("warmup", True),
    "forget state": lambda w: w["optimizer"].state.clear(),
    "total": lambda w: w["total"].add_(1),
    "append": lambda w: w["values"].append(3.0),
    "clear": lambda w: w["values"].clear(),
    "nested": lambda w: w["table"]["a"].append(2),
    "key": lambda w: w["table"].pop("b", None),
    "set": lambda w: w["seen"].add(7),
    "torch random": lambda w: torch.rand(3),
    "python random": lambda w: random.random(),
    "numpy random": lambda w: np.random.rand(),
    "generator": lambda w: w["generator"].random(),
    "torch generator": lambda w: torch.rand(1, generator=w["torch_generator"]),
    "buffer": lambda w: w["model"][1].running_mean.fill_(float("inf")),
    "rebind": _rebind,
}


class Frame:
    """A module's frame as far as a snapshot looks at one: its globals, the name of its code."""

    f_code = compile("", "train.py", "exec")
    f_back = None
    f_lineno = 1

    def __init__(self, namespace: dict[str, object]) -> None:
        self.f_globals = self.f_locals = namespace


def site() -> LoopSite:
    fields = {
        "index": 1, "filename": "nowhere.py", "function": "<module>", "header_line": 1, "body_first_line": 2,
        "body_last_line": 3, "assigned": frozenset({"count"}), "targets": frozenset(),
    }  # fmt: skip
    known = set(LoopSite.__dataclass_fields__)
    return LoopSite(**{key: value for key, value in fields.items() if key in known})


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=1, max_size=8))
def test_everything_is_put_back(names):
    world = World().namespace()
    before = facts(world)
    frame = Frame(world)
    snapshot = Snapshot(frame, site(), KnownState(), small_tensors=True, gradients=True)  # type: ignore[arg-type]
    snapshot.save_before_step(world["optimizer"], OptimizerCopy(world["optimizer"]))
    for name in names:
        MUTATIONS[name](world)
    snapshot.restore(frame)  # type: ignore[arg-type]
    assert facts(world) == before


@settings(deadline=None, max_examples=10)
@given(st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=1, max_size=5))
def test_it_can_be_put_back_again_and_again(names):
    world = World().namespace()
    before = facts(world)
    frame = Frame(world)
    snapshot = Snapshot(frame, site(), KnownState(), small_tensors=True, gradients=True)  # type: ignore[arg-type]
    snapshot.save_before_step(world["optimizer"], OptimizerCopy(world["optimizer"]))
    for _ in range(3):
        for name in names:
            MUTATIONS[name](world)
        snapshot.restore(frame)  # type: ignore[arg-type]
        assert facts(world) == before


def test_a_mutation_changes_something():
    """The tests above could not fail otherwise."""
    for name, mutate in MUTATIONS.items():
        world = World().namespace()
        before = facts(world)
        mutate(world)
        assert facts(world) != before, name


def test_a_large_tensor_written_in_place_is_named():
    namespace = {"large": torch.zeros(2**19)}
    frame = Frame(namespace)
    snapshot = Snapshot(frame, site(), KnownState(), small_tensors=True, gradients=True)  # type: ignore[arg-type]
    namespace["large"].add_(1)
    assert [id(tensor) for tensor in snapshot.changed_in_place()] == [id(namespace["large"])]


def test_taking_a_snapshot_keeps_frames_as_they_are():
    def body():
        value = [1]
        before = sys.getrefcount(value)
        Snapshot(sys._getframe(), site(), KnownState(), small_tensors=True, gradients=False)
        return before, sys.getrefcount(value)

    before, after = body()
    assert before == after


def bits(tensor):
    wide = tensor.to(torch.float32, copy=True) if tensor.dtype is torch.bfloat16 else tensor.clone()
    wide[wide.isnan()] = 7  # one NaN is as good as another
    return wide.contiguous().numpy().tobytes()


def test_copies_by_few_operations_are_the_same_bits(monkeypatch):
    monkeypatch.setattr(late, "works_ahead", lambda tensor: True)
    values = torch.tensor([0.0, -0.0, 1e-45, 3.4e38, math.inf, -math.inf, math.nan, 1 / 3])
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    tensors = [values.to(dtype, copy=True) for dtype in dtypes for _ in range(2)] + [
        torch.arange(3), torch.tensor(2**62 + 1), torch.tensor([True, False]), torch.empty(0), torch.empty(0),
        values.to(torch.complex64), torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last), values.clone()[::2],
    ]  # fmt: skip
    for tensor, copy in zip(tensors, cloned(tensors), strict=True):
        assert copy.dtype == tensor.dtype and copy.stride() == tensor.clone().stride()
        before = bits(tensor)
        tensor.zero_()
        assert bits(copy) == before
