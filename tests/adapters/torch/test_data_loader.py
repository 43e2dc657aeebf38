"""What the loader says about the current batch is what the dataset was really asked for."""

import gc
import random
import sys
import traceback

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, dataloader

from whynan.adapters.torch.data import loader as recording


class Numbers(Dataset):
    def __init__(self, n=23):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return torch.tensor(i)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(7))


class Backwards(Sampler):
    def __len__(self):
        return 23

    def __iter__(self):
        return iter(range(22, -1, -1))


@pytest.fixture(autouse=True)
def installed():
    original = dataloader._BaseDataLoaderIter._next_index
    recording.install()
    yield
    recording.uninstall()
    assert dataloader._BaseDataLoaderIter._next_index is original


@pytest.mark.parametrize("options", [
    {"shuffle": True},
    {"sampler": Backwards()},
    {"batch_sampler": BatchSampler(Backwards(), 3, drop_last=True)},
    {"shuffle": True, "num_workers": 2},
    {"num_workers": 2, "persistent_workers": True, "shuffle": True, "prefetch_factor": 3},
    {"num_workers": 2, "multiprocessing_context": "spawn"},
    {"pin_memory": torch.cuda.is_available(), "shuffle": True, "num_workers": 1},
])  # fmt: skip
def test_indices_of_each_batch(options):
    data = Numbers(9) if options.get("multiprocessing_context") else Numbers()
    options = options if "batch_sampler" in options else {"batch_size": 4, **options}
    loader = DataLoader(data, **options)
    for _ in range(2):
        n = 0
        for batch in loader:
            origin = recording.recent()[0]
            assert origin.indices == tuple(batch.tolist())
            assert origin.dataset is data and origin.ordinal == n and not origin.exhausted
            assert origin.loader_kind == "map" and origin.n_workers == options.get("num_workers", 0)
            assert (origin.rng_before is None) == bool(origin.n_workers)
            n += 1
        assert n == len(loader)


def test_without_batches_each_item_has_one_index():
    for workers in (0, 2):
        for item in DataLoader(Numbers(9), batch_size=None, num_workers=workers):
            origin = recording.recent()[0]
            assert origin.indices == (int(item),) and origin.loader_kind == "single"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_has_no_indices(workers):
    n = 0
    for _ in DataLoader(Stream(), batch_size=3, num_workers=workers):
        origin = recording.recent()[0]
        assert origin.indices == () and origin.loader_kind == "iterable" and not origin.exhausted
        n += 1
    assert n >= 3


def test_a_validation_loop_that_is_over_gives_way_to_the_training_batch():
    training, validation = Numbers(12), Numbers(5)
    for kwargs in ({}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}):
        val_loader = DataLoader(validation, batch_size=2, **kwargs)
        for batch in DataLoader(training, batch_size=4, shuffle=True):
            for inner in val_loader:
                assert recording.recent()[0].indices == tuple(inner.tolist())
            assert recording.recent()[0].dataset is training
            assert recording.recent()[0].indices == tuple(batch.tolist())


def test_two_loaders_drawn_in_turn_and_earlier_batches():
    a, b = Numbers(12), Numbers(12)
    for x, y in zip(DataLoader(a, batch_size=3, shuffle=True), DataLoader(b, batch_size=2, num_workers=1)):
        first, second = recording.recent()
        assert first.dataset is b and first.indices == tuple(y.tolist())
        assert second.dataset is a and second.indices == tuple(x.tolist())
    draws = iter(DataLoader(a, batch_size=3, shuffle=True))
    one, _two = next(draws), next(draws)
    assert recording.recent(back=1)[0].indices == tuple(one.tolist())
    assert recording.recent(back=2) == []


class FailsOnce(Numbers):
    def __getitem__(self, i):
        if i == 5:
            raise ValueError("broken file")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_goes_on_after_the_datasets_exception(workers):
    batches = iter(DataLoader(FailsOnce(), batch_size=4, num_workers=workers))
    seen = 0
    while True:
        try:
            batch = next(batches)
        except ValueError:
            continue
        except StopIteration:
            break
        seen += 1
        assert recording.recent()[0].indices == tuple(batch.tolist())
    assert seen == 5


def test_nothing_is_known_of_the_batch_where_workers_deliver_out_of_order():
    for _ in DataLoader(Numbers(), batch_size=4, num_workers=2, in_order=False):
        origin = recording.recent()[0]
        assert origin.indices == () and origin.ordinal is None


class Failing(Sampler):
    def __iter__(self):
        yield 0
        raise KeyError("weights")


def test_a_samplers_exception_passes_and_its_traceback_shows_torch_alone():
    with pytest.raises(KeyError) as caught:
        list(DataLoader(Numbers(), sampler=Failing()))
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert not [frame.filename for frame in frames if "/whynan/adapters/" in frame.filename]
    assert any(frame.name == "_next_index" and "next(self._sampler_iter)" in (frame.line or "") for frame in frames)


class Looks(Numbers):
    def __getitem__(self, i):
        frame = sys._getframe()
        while frame is not None:
            assert "whynan/adapters" not in frame.f_code.co_filename
            frame = frame.f_back
        return super().__getitem__(i)


def test_no_frame_of_ours_below_the_dataset():
    assert len(list(DataLoader(Looks(), batch_size=4))) == 6


def test_iterators_are_not_kept_alive():
    batches = iter(DataLoader(Numbers(), batch_size=4))
    next(batches)
    assert len(recording.recent()) == 1
    del batches
    gc.collect()
    assert recording.recent() == []


class Noisy(Numbers):
    def __getitem__(self, i):
        return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item(), i])


def train():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    weight = torch.zeros(4, requires_grad=True)
    for _ in range(2):
        for batch in DataLoader(Noisy(), batch_size=4, shuffle=True):
            ((batch @ weight - 1) ** 2).mean().backward()
            with torch.no_grad():
                weight -= 1e-4 * weight.grad
    return weight.tolist(), random.random(), np.random.rand(), torch.rand(3).tolist()


def test_a_seeded_run_is_bit_identical_with_and_without():
    with_it = train()
    recording.uninstall()
    assert train() == with_it


def test_states_are_those_before_the_first_sample():
    from whynan.adapters.torch.data import loader as recording

    for batch in DataLoader(Noisy(), batch_size=4, shuffle=True):
        origin = recording.recent()[0]
        with recording.preserved():
            recording.put_back(origin.rng_before)
            assert torch.equal(torch.stack([origin.dataset[i] for i in origin.indices]), batch)


def test_recording_is_in_no_dispatch_mode():
    class Seen(TorchDispatchMode):
        ops = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.ops.append(str(func))
            return func(*args, **(kwargs or {}))

    def ops():
        Seen.ops = []
        with Seen():
            list(DataLoader(Numbers(), batch_size=4))
        return Seen.ops

    with_it = ops()
    recording.uninstall()
    assert ops() == with_it
