"""Programs of several files, models, optimizers and loops; what is no symptom; what the policies do."""

from typing import Any

import pytest
from tests.shapes.scripts import HEAD, LOADER
from tests.shapes.test_loops import check

MODULE = (
    "from lib import model, opt\n"
    + """
def loss_of(xb, yb):
    import torch
    weight = torch.log(xb.sum(1))  # BAD
    return ((model(xb).squeeze(1) - yb) ** 2 * weight).mean()
"""
)
LIB = """
import torch
from torch import nn
torch.manual_seed(0)
x, y = torch.rand(40, 3) + 0.1, torch.rand(40)
x[17] = 0.0
model = nn.Linear(3, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.01)
"""
ENGINE = """
from {0}losses import loss_of
from {0}lib import opt
def fit(loader):
    for xb, yb in loader:
        loss = loss_of(xb, yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
"""
MAIN = """
from {0}lib import x, y
from {0}engine import fit
from torch.utils.data import DataLoader, TensorDataset
fit(DataLoader(TensorDataset(x, y), batch_size=4))
"""


def test_a_loop_in_an_imported_module(training: Any) -> None:
    files = {"train.py": MAIN.format(""), "lib.py": LIB, "engine.py": ENGINE.format(""), "losses.py": MODULE}
    run = training(files)
    incident = run.incident
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line(file="losses.py")
    assert incident["samples"][0]["index"] == 17
    assert run.status == 3


def test_a_package_run_as_a_module(training: Any) -> None:
    files = {
        "pkg/train.py": MAIN.format("."),
        "pkg/__init__.py": "",
        "pkg/lib.py": LIB,
        "pkg/engine.py": ENGINE.format("."),
        "pkg/losses.py": MODULE.replace("from lib", "from .lib"),
    }
    run = training(files, program=("-m", "pkg.train"))
    incident = run.incident
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line(file="pkg/losses.py")
    assert incident["samples"][0]["index"] == 17
    assert run.status == 3


def test_accumulation(training: Any) -> None:
    check(
        training(
            HEAD
            + LOADER
            + """
opt.zero_grad()
for i, (xb, yb) in enumerate(loader):
    loss = loss_of(xb, yb) / 3
    loss.backward()
    if (i + 1) % 3 == 0:
        opt.step()
        opt.zero_grad()
"""
        ),
        step=1,
    )


def test_accumulation_in_an_inner_loop(training: Any) -> None:
    check(
        training(
            HEAD
            + LOADER
            + """
def main():
    it = iter(loader)
    for step in range(3):
        opt.zero_grad()
        total = 0.0
        for micro in range(3):
            xb, yb = next(it)
            loss = loss_of(xb, yb) / 3
            loss.backward()
            total += float(loss)
        opt.step()
main()
"""
        ),
        step=1,
    )


def test_two_optimizers(training: Any) -> None:
    check(
        training(
            HEAD
            + LOADER
            + """
critic = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
opt_c = torch.optim.Adam(critic.parameters(), lr=1e-3)
for xb, yb in loader:
    fake = model(xb)
    loss_c = critic(fake.detach()).mean() - critic(yb[:, None]).mean()
    opt_c.zero_grad()
    loss_c.backward()
    opt_c.step()
    loss_g = -critic(model(xb)).mean() + loss_of(xb, yb)
    opt.zero_grad()
    loss_g.backward()
    opt.step()
"""
        ),
        step=None,
    )


def test_a_gradient_that_is_not_finite(training: Any) -> None:
    run = training(
        HEAD
        + LOADER
        + """
for xb, yb in loader:
    h = xb * model.weight
    norm = h.pow(2).sum(1).sqrt()  # BAD-HERE
    loss = ((norm - yb) ** 2).mean() + 0 * model.bias.sum()
    update(loss)
"""
    )
    check(run, cause="sqrt-at-zero")
    assert run.incident["origin"]["phase"] == "backward"


VALIDATION = (
    LOADER.replace("x, y", "x[20:], y[20:]")
    + """
bad_x = x[:20]
val = DataLoader(TensorDataset(bad_x, y[:20]), batch_size=4)
for epoch in range(2):
    for xb, yb in loader:
        update(((model(xb).squeeze(1) - yb) ** 2).mean())
    {}
"""
)
VALIDATIONS = {
    "item": """
    model.eval()
    with torch.no_grad():
        total = 0.0
        for xb, yb in val:
            val_loss = loss_of(xb, yb)
            total += val_loss.item()
    print("val", total)
""",
    "tensors": """
    model.eval()
    with torch.no_grad():
        total = torch.zeros(())
        for xb, yb in val:
            val_loss = loss_of(xb, yb)
            total += val_loss
    print("val", total.item())
""",
    "function": """
    def validate():
        losses = []
        model.eval()
        with torch.no_grad():
            for xb, yb in val:
                losses.append(loss_of(xb, yb).item())
        return sum(losses) / len(losses)
    print("val", validate())
""",
}


@pytest.mark.parametrize("name", VALIDATIONS)
def test_validation(name: str, training: Any) -> None:
    run = training(HEAD + VALIDATION.format(VALIDATIONS[name].strip()))
    incident = run.incident
    assert incident["stage"] == "validation"
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line()
    assert incident["samples"][0]["index"] == 17
    assert run.status == 3


def test_a_running_statistic(training: Any) -> None:
    run = training(
        HEAD
        + LOADER
        + """
norm = nn.BatchNorm1d(3)
opt.add_param_group({"params": norm.parameters()})
x[17] = 1e30
for xb, yb in loader:
    h = norm(xb)  # BAD-HERE
    loss = ((model(xb.clamp(max=1.0)).squeeze(1) - yb) ** 2).mean() + 0.0 * h.clamp(-1, 1).sum().detach()
    update(loss)
"""
    )
    incident = run.incident
    assert incident["symptom"]["what"] == "buffer"
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line("# BAD-HERE")


def test_a_step_outside_of_any_loop(training: Any) -> None:
    run = training(
        HEAD
        + """
loss = loss_of(x, y)
opt.zero_grad()
loss.backward()
opt.step()
print("after")
"""
    )
    incident = run.incident
    assert run.status == 3
    assert "after" not in run.stdout
    assert incident["symptom"]["what"] == "loss"
    assert not incident["replay"]["reproduced"]
    assert incident["replay"]["method"] == "none"
    assert "whynan run --rerun train.py" in run.stderr


HEALTHY = {
    "masks": LOADER.replace("x, y", "x + 0.1, y") + """
attend = nn.MultiheadAttention(3, 1, batch_first=True)
opt.add_param_group({"params": attend.parameters()})
mask = torch.triu(torch.full((4, 4), -math.inf), 1)
for xb, yb in loader:
    h, _ = attend(xb[None], xb[None], xb[None], attn_mask=mask)
    scores = (h @ h.transpose(1, 2)).masked_fill(mask == -math.inf, -math.inf).softmax(-1)
    update(((model(h[0]).squeeze(1) - yb) ** 2).mean() + scores.mean())
""",
    "a metric": LOADER + """
for xb, yb in loader:
    update(((model(xb).squeeze(1) - yb) ** 2).mean())
    with torch.no_grad():
        ratio = (torch.zeros(3) / torch.zeros(3)).mean()
        recall = torch.tensor(0.0) / torch.tensor(0.0)
    if math.isnan(recall.item()) or math.isnan(float(ratio)):
        continue
""",
    "an unused branch": LOADER + """
for xb, yb in loader:
    unused = torch.log(xb.sum(1) - xb.sum(1)) * model(xb).squeeze(1)
    kept = torch.where(torch.isfinite(unused), unused, torch.zeros_like(unused)).detach()
    update(((model(xb).squeeze(1) - yb) ** 2).mean() + kept.sum())
""",
    "a spike": LOADER + """
for i, (xb, yb) in enumerate(loader):
    update(((model(xb).squeeze(1) - yb) ** 2).mean() * (1e4 if i == 5 else 1.0))
""",
    "early stopping": LOADER + """
best = math.inf
for epoch in range(3):
    for i, (xb, yb) in enumerate(loader):
        if i == 7:
            break
        loss = ((model(xb).squeeze(1) - yb) ** 2).mean()
        update(loss)
        if loss.item() < best:
            best = loss.item()
    print(epoch, best)
""",
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_no_symptom(name: str, training: Any) -> None:
    run = training(HEAD + HEALTHY[name])
    assert run.status == 0, run.stderr
    assert run.report["outcome"] == "healthy", run.report["incidents"]
    assert run.stderr == ""


ORDINARY = {
    "a shape": "loss = ((xb @ torch.rand(4) - yb) ** 2).mean()",
    "a key": 'loss = {}["loss"]',
    "a value": 'raise ValueError("unknown option: nearest")',
    "an index": "loss = yb[7]",
    "an assertion": 'assert xb.shape == (3, 3), "wrong shape"',
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_bug(name: str, training: Any) -> None:
    script = (
        HEAD
        + LOADER
        + f"""
mask = torch.full((4, 4), -math.inf)
for i, (xb, yb) in enumerate(loader):
    mask_here = mask.clone()
    scores = torch.zeros(4, 4) + mask_here.triu(1)
    loss = ((model(xb).squeeze(1) - yb) ** 2).mean() + scores.softmax(-1).mean()
    if i == 4:
        {ORDINARY[name]}
    update(loss)
"""
    )
    run, plain = training(script), training(script, plain=True)
    assert run.status == plain.status == 1
    assert run.report["outcome"] == "script-error", run.stderr
    assert not run.report["incidents"]
    last = plain.stderr.splitlines()[-1]
    assert run.stderr.splitlines()[-1] == last
    assert run.report["error"] == last or last == "AssertionError"
    assert "whynan" not in run.stderr


STEPS = (
    HEAD
    + LOADER
    + """
def main():
    losses = []
    for i, (xb, yb) in enumerate(loader):
        loss = loss_of(xb, yb)
        update(loss)
        losses.append(loss.item())
        print(i, loss.item())
        torch.save(model.state_dict(), f"step{i}.pt")
    print("done", len(losses))
    print([p.detach().flatten().tolist() for p in model.parameters()])

main()
sys.exit(5)
"""
)


def test_stop_lets_nothing_happen_after_the_step(training: Any) -> None:
    run, plain = training(STEPS), training(STEPS, plain=True)
    assert run.status == 3
    assert run.stdout == "".join(plain.stdout.splitlines(keepends=True)[:4])
    assert sorted(path.name for path in run.place.glob("*.pt")) == [f"step{i}.pt" for i in range(4)]
    for path in run.place.glob("*.pt"):
        assert path.read_bytes() == (plain.place / path.name).read_bytes()


def test_observe_changes_nothing(training: Any) -> None:
    run, plain = training(STEPS, "--policy", "observe"), training(STEPS, plain=True)
    assert run.status == plain.status == 5
    assert run.stdout == plain.stdout
    for path in plain.place.glob("*.pt"):
        assert path.read_bytes() == (run.place / path.name).read_bytes(), path.name
    check_origin(run)


def test_observe_of_a_script_that_raises(training: Any) -> None:
    script = (
        HEAD
        + LOADER
        + """
for i, (xb, yb) in enumerate(loader):
    loss = loss_of(xb, yb)
    print(i, loss.item())
    if not torch.isfinite(loss):
        raise RuntimeError("bad loss")
    update(loss)
"""
    )
    run, plain = training(script, "--policy", "observe"), training(script, plain=True)
    assert (run.status, run.stdout) == (plain.status, plain.stdout)
    assert "RuntimeError: bad loss" in run.stderr
    check_origin(run)


def test_recover_goes_on(training: Any) -> None:
    run = training(STEPS, "--policy", "recover")
    assert run.status == 5, run.stderr
    assert "done 9" in run.stdout
    assert "nan" not in run.stdout and "inf" not in run.stdout
    check_origin(run)


def check_origin(run: Any) -> None:
    incident = run.incident
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line()
    assert [sample["index"] for sample in incident["samples"]] == [17]


INFERENCE = """
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, hits = torch.rand(40, 3), []
    with torch.inference_mode():
        scores = model(x)
        total = torch.zeros(1)
        for k in range(0, 40, 8):
            out = model(x[k : k + 8])
            total += out.sum()
            hits.append(out > 0)
            best = scores[k]
        print(float(total) != 0, len(hits))
"""


def test_loops_under_inference_mode(training: Any) -> None:
    run = training(INFERENCE)
    assert run.stdout.split() == ["True", "5"]
    assert run.stderr == ""
    assert run.report["outcome"] == "healthy"
