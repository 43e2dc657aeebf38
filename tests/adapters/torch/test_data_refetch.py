"""A sample fetched again leads to the line and the operation that made it non-finite."""

import io
import logging
import math
import random
import sys
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from whynan.adapters.common.arrays import is_bad
from whynan.adapters.torch.data import loader as recording
from whynan.adapters.torch.data.refetch import find_data_origin

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def installed():
    recording.install()
    yield
    recording.uninstall()
    assert sys.gettrace() is None


def is_user_file(file):
    return file == __file__


class Items(Dataset):
    """Six samples; number 3 is the odd one."""

    def __init__(self, get, x=None):
        self.x = np.random.default_rng(0).random((6, 4)).astype("float32") + 0.5 if x is None else x
        self.get = get

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return self.get(self, i)


def found_in(get, x=None, budget_s=5.0, position=True, **options):
    torch.manual_seed(0)
    options.setdefault("shuffle", True)
    for batch in DataLoader(Items(get, x), batch_size=6, **options):
        origin = recording.recent()[0]
        place = origin.indices.index(3) if position else None
        found = find_data_origin(origin, place, is_user_file, budget_s)
        del batch
        return found
    return None


def line_of(found):
    assert found.file == __file__
    return found.code


def flat(x):
    x = x.copy()
    x[3] = 0.7
    return x


ZERO = np.zeros((6, 4), "float32")
STORED = np.ones((6, 4), "float32")
STORED[3, 1] = np.nan


def standardize(x):
    return (x - x.mean()) / x.std()


def wide(self, i):
    x = np.arange(4.0) * (i != 3)
    x = standardize(x)
    return torch.from_numpy(x.astype("float32"))


def logarithm(self, i):
    depth = np.arange(4.0) + (i != 3)
    small = np.log(depth) * 0.5
    return small, i


def in_place(self, i):
    x = np.ones(3) * (i != 3)
    x /= x.sum()
    return torch.as_tensor(x)


def torch_division(self, i):
    x = torch.ones(3) * (i != 3)
    y = x.clone()
    y = y / y.max()
    return {"x": y, "label": i}


def hidden(x):
    with np.errstate(all="ignore"):
        return np.sqrt(x - 1.0)


def through_a_helper(self, i):
    x = np.full(3, 0.5 if i == 3 else 2.0)
    return [hidden(x)]


def through_steps(self, i):
    x = np.full(3, 0.0 if i == 3 else 2.0)
    for step in (np.copy, standardize_by_max, np.copy):
        x = step(x)
    return x


def standardize_by_max(x):
    top = x.max()
    return x / top


def python_floats(self, i):
    values = [1e200, 1e200 if i == 3 else 1.0]
    total = values[0] * values[1]
    return torch.tensor(total)


def cleaned_before(self, i):
    x = np.arange(4.0)
    logs = np.log(x)
    logs[~np.isfinite(logs)] = 0
    spare = np.where(np.isfinite(logs), logs, 0)
    count = len(logs) if i != 3 else 0
    return spare.sum() / np.float64(count)


def several_lines(self, i):
    x = np.ones(3) * (i != 3)
    return np.stack([
        x * 2,
        x / x.max(),
    ])  # fmt: skip


def comprehension(self, i):
    return torch.tensor([math.inf if i == 3 and k == 2 else 1.0 for k in range(4)])


def empty_mean(self, i):
    x = np.arange(4.0)
    kept = x[x > (9 if i == 3 else 1)]
    return kept.mean()


@pytest.mark.parametrize("get, op, code", [
    (wide, "divide", "return (x - x.mean()) / x.std()"),
    (logarithm, "log", "small = np.log(depth) * 0.5"),
    (in_place, "divide", "x /= x.sum()"),
    (torch_division, "divide", "y = y / y.max()"),
    (through_a_helper, "sqrt", "return np.sqrt(x - 1.0)"),
    (through_steps, "divide", "return x / top"),
    (python_floats, "multiply", "total = values[0] * values[1]"),
    (cleaned_before, "divide", "return spare.sum() / np.float64(count)"),
    (several_lines, "divide", "x / x.max(),"),
    (empty_mean, "mean", "return kept.mean()"),
])  # fmt: skip
def test_the_operation_and_its_line(get, op, code):
    found = found_in(get, collate_fn=list)
    assert (found.op, line_of(found)) == (op, code)
    assert not found.stored and found.reproduced and found.position is not None
    assert all(summary.n_nonfinite == 0 for summary in found.inputs) and found.inputs
    assert found.output.n_nonfinite > 0


def test_the_event_and_the_sub_expression():
    found = found_in(logarithm, collate_fn=list)
    assert found.event == "divide by zero" and found.expression == "np.log(depth)" and found.function == "logarithm"
    assert found.inputs[0].n_zero == 1 and found.output.n_neginf == 1
    assert found_in(wide).inputs[1].max == 0


def test_a_constant_that_the_code_writes():
    found = found_in(comprehension)
    assert found.op == "constant" and not found.stored and "math.inf" in line_of(found)


def direct(self, i):
    return torch.from_numpy(self.x[i])


def by_name(self, i):
    row = self.x[i]
    row = row * 2
    return standardize(row)


def parsed(self, i):
    cell = "nan" if i == 3 else "1.5"
    value = float(cell)
    return torch.tensor(value)


def library_read(self, i):
    text = io.StringIO("1,2,\n" if i == 3 else "1,2,3\n")
    row = np.genfromtxt(text, delimiter=",")
    return row + 1


def passed_on(self, i):
    return standardize(self.x[i])


@pytest.mark.parametrize("get, code", [
    (direct, "return torch.from_numpy(self.x[i])"),
    (by_name, "row = self.x[i]"),
    (parsed, "value = float(cell)"),
    (library_read, 'row = np.genfromtxt(text, delimiter=",")'),
    (passed_on, "return standardize(self.x[i])"),
])  # fmt: skip
def test_values_that_come_bad_from_storage(get, code):
    found = found_in(get, STORED)
    assert found.op == "data" and found.stored and line_of(found) == code and found.event is None


def test_a_bad_row_elsewhere_does_not_make_this_one_stored():
    def divide(self, i):
        return self.x[i] / np.float32(i - 3)

    x = np.ones((6, 4), "float32")
    x[0] = np.nan
    assert found_in(divide, x).op == "divide"


def test_a_librarys_dataset_has_no_line():
    x = torch.ones(6, 2)
    x[3] = float("inf")
    for _ in DataLoader(Subset(TensorDataset(x), [5, 4, 3]), batch_size=3):
        found = find_data_origin(recording.recent()[0], None, is_user_file)
    assert found.stored and found.op == "data" and found.file is None and found.position == 2


def test_a_finite_sample_has_no_origin():
    assert found_in(direct, ZERO) is None


def random_crop(self, i):
    keep = random.random() * np.random.rand() * torch.rand(()).item()
    x = np.ones(4) * (0.0 if keep < 0.02 else 1.0)
    return x / x.max(), keep


def test_random_transforms_get_the_same_random_numbers():
    checked = 0
    for _ in range(40):
        for values, _keep in DataLoader(Items(random_crop), batch_size=6):
            origin = recording.recent()[0]
            bad = torch.isnan(values).any(1).nonzero().flatten().tolist()
            for position in range(6):
                found = find_data_origin(origin, position, is_user_file)
                assert (found is not None) == (position in bad)
                checked += position in bad
        if checked > 3:
            break
    assert checked


def test_in_workers_random_numbers_are_not_the_same_and_that_is_said():
    def half(self, i):
        x = np.ones(4) * (random.random() < 0.5)
        return x / x.max()

    found = found_in(half, num_workers=1)
    assert found is not None and found.op == "divide" and not found.reproduced
    fixed = found_in(wide, num_workers=2)
    assert fixed.op == "divide" and fixed.reproduced


def center_over_batch(samples):
    x = np.stack(samples)
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / spread
    return torch.from_numpy(x)


def test_the_collate_function():
    found = found_in(lambda self, i: self.x[i], flat(ZERO), position=False, collate_fn=center_over_batch)
    assert found is None or found.function == "center_over_batch"
    found = found_in(lambda self, i: self.x[i], ZERO, position=False, collate_fn=center_over_batch)
    assert found.op == "divide" and found.position is None and line_of(found).startswith("x = (x - x.mean(axis=0))")


def noisy(self, i):
    print("noise"), sys.stderr.write("noise"), logging.warning("noise")
    random.random(), np.random.rand(), torch.rand(1)
    return np.log(np.zeros(2))


def test_nothing_is_heard_and_no_stream_moves(capsys, caplog, recwarn):
    loader = iter(DataLoader(Items(noisy), batch_size=3))
    next(loader)
    capsys.readouterr(), caplog.clear(), recwarn.clear()
    before = recording.take()
    assert find_data_origin(recording.recent()[0], 1, is_user_file).op == "log"
    after = recording.take()
    assert before.python == after.python and torch.equal(before.torch, after.torch)
    assert (before.numpy[1] == after.numpy[1]).all() and before.numpy[2:] == after.numpy[2:]
    assert capsys.readouterr() == ("", "") and not caplog.records and not recwarn.list
    assert logging.root.manager.disable == 0


def test_a_dataset_that_fails_or_hangs_the_second_time():
    calls = []

    def fails(self, i):
        calls.append(i)
        if len(calls) > 6:
            raise SystemExit(3) if i == 3 else OSError("gone")
        return torch.tensor(float("nan"))

    assert found_in(fails) is None

    def hangs(self, i):
        calls.append(i)
        while len(calls) > 13:
            try:
                time.sleep(0.001)
            except Exception:
                pass
        return torch.tensor(1.0)

    calls[:] = range(7)
    started = time.monotonic()
    assert found_in(hangs, budget_s=0.3) is None
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("value, bad", [
    (1.0, False), (math.nan, True), (np.float32("inf"), True), (torch.tensor([1, 2]), False), ("nan", False),
    ({"a": [1.0, (math.inf,)]}, True), (np.array([1.0, None, math.nan], dtype=object), True), (object(), False),
    (torch.tensor([math.nan], dtype=torch.bfloat16), True), ([], False), (np.array(["a"]), False),
])  # fmt: skip
def test_what_is_bad(value, bad):
    assert is_bad(value) == bad


class MinMax:
    def __call__(self, x):
        low, high = x.amin(), x.amax()
        return (x - low) / (high - low)


def test_a_users_transform_among_a_librarys():
    from torchvision import transforms

    steps = transforms.Compose([transforms.RandomHorizontalFlip(), MinMax(), transforms.Normalize([0.5], [2.0])])
    images = np.random.default_rng(0).random((6, 1, 4, 4))
    images[3] = 0.25
    found = found_in(lambda self, i: steps(torch.from_numpy(self.x[i])), images)
    assert (found.op, found.function) == ("divide", "__call__") and found.inputs[1].max == 0
