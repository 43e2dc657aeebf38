"""A device that works ahead of the host is asked and not waited for; a step found bad after its end is explained.

There is no such device here: the CPU's numbers are handed over as late as a queue's would be.
"""

import math

import pytest

AHEAD = """
    from whynan.adapters.torch import late

    class Copied:
        def __init__(self, numbers):
            self.numbers, self.n_left = numbers.detach().clone(), {looks}

        def has_come(self):
            self.n_left -= 1
            return self.n_left < 0

        def values(self):
            return [float(value) for value in self.numbers.reshape(-1).tolist()]

    class Stopwatch:
        def __init__(self, tensor):
            pass

        def stop(self):
            pass

        def seconds(self):
            return {seconds}

    late.Copied, late.Stopwatch, late.works_ahead = Copied, Stopwatch, lambda tensor: True
"""

SQUARE_ROOT = """
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    rows = torch.randn(64, 4)
    rows[{bad}] = 0
    net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.Tanh())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    seen = []
    for (x,) in DataLoader(TensorDataset(rows), batch_size=4):
        distance = net(x).pow(2).sum(1).sqrt()  # BAD
        loss = distance.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(x.sum()))
    print(len(seen), bool(net[0].weight.isfinite().all()))
"""


@pytest.fixture
def ahead(training):
    def run(script, *options, looks=9, seconds=1e-6):
        files = {"train.py": script, "ahead.py": AHEAD.format(looks=looks, seconds=seconds)}
        return training(files, *options, setup="ahead.py")

    return run


@pytest.mark.parametrize("looks", [1, 9])
def test_a_gradient_heard_of_after_its_step(ahead, looks):
    run = ahead(SQUARE_ROOT.format(bad=37), looks=looks)
    assert run.status == 3
    incident = run.incident
    assert incident["symptom"]["what"] == "gradient" and incident["step"] == 9
    assert incident["replay"]["reproduced"]
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line()
    assert [sample["index"] for sample in incident["samples"]] == [37]


def test_recovery_undoes_that_step_alone(ahead):
    run = ahead(SQUARE_ROOT.format(bad=37), "--policy", "recover")
    assert run.status == 0
    assert run.incident["samples"][0]["index"] == 37
    # 16 batches: the bad one left out, and the one that had begun when it was heard of not lost
    assert run.stdout.split() == ["15", "True"]


def test_observing_changes_nothing(ahead, training):
    run = ahead(SQUARE_ROOT.format(bad=37), "--policy", "observe")
    assert run.incident["samples"][0]["index"] == 37
    assert run.stdout == training(SQUARE_ROOT.format(bad=37), plain=True).stdout == "16 False\n"


def test_the_last_step_is_waited_for_at_the_end(ahead):
    run = ahead(SQUARE_ROOT.format(bad=62))
    assert run.report["outcome"] == "non-finite"
    assert run.incident["step"] == 15
    assert not run.incident["replay"]["reproduced"]
    assert run.incident["action"]["detail"] == "the run was over when this was known"


def test_where_a_step_could_not_be_undone_it_is_waited_for(ahead):
    run = ahead(SQUARE_ROOT.format(bad=37), seconds=1e3)  # no time for copies
    assert run.incident["action"]["detail"] == "stopped before the optimizer could use it"
    assert run.incident["samples"][0]["index"] == 37


IGNITE = (
    SQUARE_ROOT.split("    for (x,)")[0].format(bad=37)
    + """
    from ignite.engine import Engine

    def update(engine, batch):
        distance = net(batch[0]).pow(2).sum(1).sqrt()  # BAD
        optimizer.zero_grad()
        distance.mean().backward()
        optimizer.step()

    Engine(update).run(DataLoader(TensorDataset(rows), batch_size=4))
    print(bool(net[0].weight.isfinite().all()))
"""
)


@pytest.mark.parametrize("policy", ["stop", "recover"])
def test_a_step_that_a_trainer_calls(ahead, policy):
    run = ahead(IGNITE, "--policy", policy)
    assert (run.incident["origin"]["file"], run.incident["origin"]["line"]) == run.line()
    assert run.incident["step"] == 9 and run.incident["samples"][0]["index"] == 37
    assert policy == "stop" or run.stdout.endswith("True\n")


SCRIPT = """
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.{optimizer}(net.parameters(), {options})
    for step in range(12):
        x = torch.randn(6, 4)
        {change}
        loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


def test_a_loss_is_heard_of_before_its_update(ahead):
    run = ahead(SCRIPT.format(optimizer="SGD", options="lr=0.1", change="x = x / (step != 7)"))
    assert run.incident["symptom"]["what"] == "loss" and run.incident["symptom"]["name"] == "loss"
    assert run.incident["step"] == 7
    assert run.incident["action"]["detail"] == "stopped before the optimizer could use it"


def test_an_update_that_leaves_the_numbers(ahead):
    run = ahead(SCRIPT.format(optimizer="RMSprop", options="lr=1e-3, eps=0.0", change="x[:, 0] = 0"))
    assert run.incident["symptom"]["what"] == "parameter" and run.incident["step"] == 0
    assert run.incident["replay"]["reproduced"]
    assert run.incident["causes"][0]["slug"] == "optimizer-epsilon"


COUNTED = """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Reads.n += steps > 20 and str(function).split(".")[1] in ("_local_scalar_dense", "is_nonzero", "equal")
            return function(*args, **(kwargs or {}))

    steps = 0
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    with Reads():
        for steps in range(60):
            loss = net(torch.randn(6, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    print(Reads.n, sum(float(p.detach().double().sum()) for p in net.parameters()))
"""


def test_no_number_is_read_within_a_step(ahead, training):
    run, plain = ahead(COUNTED), training(COUNTED, plain=True)
    assert run.status == 0 and run.report["outcome"] == "healthy", run.stderr
    assert run.stdout == plain.stdout
    assert math.isfinite(float(run.stdout.split()[1]))
