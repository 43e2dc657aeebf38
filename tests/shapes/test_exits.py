"""Scripts that notice a non-finite loss themselves, however they do it and whatever they do then."""

from typing import Any

import pytest
from tests.shapes.scripts import HEAD, LOADER
from tests.shapes.test_loops import check

LOOP = (
    LOADER
    + """
def main():
    total = 0.0
    for step, (xb, yb) in enumerate(loader):
        loss = loss_of(xb, yb)
{}
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item()
    print("after the loop", step)

main()
print("after main")
"""
)

NOTICES = {
    "isnan": "torch.isnan(loss).any() or torch.isinf(loss)",
    "isfinite": "not torch.isfinite(loss)",
    "item": "not math.isfinite(loss.item())",
    "float": "math.isinf(float(loss))",
    "math on a tensor": "math.isinf(loss)",
    "NumPy on the item": "np.isinf(loss.item())",
    "NumPy on the array": "not np.isfinite(loss.detach().numpy())",
    "comparison": "not loss > -1e30",
    "difference": "loss - loss != 0",
    "tolist": "loss.tolist() == -math.inf",
}
EXITS = {
    "break": "break",
    "return": "return",
    "raise": 'raise ValueError("loss went bad")',
    "RuntimeError": 'raise RuntimeError(f"loss is {loss}")',
    "assert": "assert False, loss",
    "sys.exit": "sys.exit(1)",
    "sys.exit with words": 'sys.exit("diverged")',
    "exit": "exit()",
    "os._exit": "os._exit(7)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
}


@pytest.mark.parametrize("notice", NOTICES)
def test_notices(notice: str, training: Any) -> None:
    check(training(HEAD + LOOP.format(f"        if {NOTICES[notice]}:\n            break")))


@pytest.mark.parametrize("leave", EXITS)
def test_exits(leave: str, training: Any) -> None:
    run = training(HEAD + LOOP.format(f"        if not torch.isfinite(loss):\n            {EXITS[leave]}"))
    if leave == "KeyboardInterrupt":
        return
    check(run)
    assert "after" not in run.stdout


AFTER_BACKWARD = (
    LOADER
    + """
def main():
    for step, (xb, yb) in enumerate(loader):
        opt.zero_grad()
        loss = loss_of(xb, yb)
        value = loss.item()
        if {}:
            return
        loss.backward()
        opt.step()

main()
"""
)


@pytest.mark.parametrize(
    "notice", ["math.isinf(value)", "value in (math.inf, -math.inf)", "np.isinf(value)", "abs(value) > 1e30"]
)
def test_a_number_that_was_read(notice: str, training: Any) -> None:
    check(training(HEAD + AFTER_BACKWARD.format(notice)))


ELSEWHERE = {
    "a function that raises": LOADER + """
def checked(loss):
    if not torch.isfinite(loss):
        raise FloatingPointError("loss")
    return loss

for xb, yb in loader:
    loss = checked(loss_of(xb, yb))
    opt.zero_grad()
    loss.backward()
    opt.step()
""",
    "a function that asks": LOADER + """
def bad(loss):
    return not math.isfinite(loss.item())

def main():
    for xb, yb in loader:
        loss = loss_of(xb, yb)
        if bad(loss):
            return 1
        update(loss)
sys.exit(main())
""",
    "a method that returns False": LOADER + """
class Trainer:
    def step(self, xb, yb):
        loss = loss_of(xb, yb)
        if torch.isinf(loss):
            return False
        update(loss)
        return True

    def fit(self):
        for xb, yb in loader:
            if not self.step(xb, yb):
                print("giving up")
                break
Trainer().fit()
""",
    "a loss of parts": LOADER + """
def losses_of(xb, yb):
    return {"data": loss_of(xb, yb), "norm": 1e-4 * model.weight.pow(2).sum()}

def main():
    for xb, yb in loader:
        losses = losses_of(xb, yb)
        loss = sum(losses.values())
        if not math.isfinite(loss):
            print("Loss is", loss.item(), "stopping training")
            print(losses)
            sys.exit(1)
        update(loss)
main()
""",
    "an early stop around the epochs": LOADER + """
def epoch():
    total = 0.0
    for xb, yb in loader:
        loss = loss_of(xb, yb)
        if torch.isinf(loss):
            return None
        update(loss)
        total += loss.item()
    return total

for number in range(3):
    if epoch() is None:
        print("stopped")
        break
""",
    "assert isfinite": LOADER + """
for xb, yb in loader:
    loss = loss_of(xb, yb)
    assert torch.isfinite(loss).all(), f"bad loss {loss}"
    update(loss)
""",
    "after the gradients": LOADER + """
for xb, yb in loader:
    opt.zero_grad()
    loss = loss_of(xb, yb)
    loss.backward()
    if any(not p.grad.isfinite().all() for p in model.parameters()):
        raise RuntimeError("bad gradients")
    opt.step()
""",
    "clip_grad_norm_ that raises": LOADER + """
for xb, yb in loader:
    opt.zero_grad()
    loss = loss_of(xb, yb)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
    opt.step()
""",
    "caught around the step": LOADER + """
for xb, yb in loader:
    try:
        loss = loss_of(xb, yb)
        if not torch.isfinite(loss):
            raise ValueError("bad")
        update(loss)
    except ValueError as error:
        print("caught", error)
        break
""",
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_elsewhere(name: str, training: Any) -> None:
    check(training(HEAD + ELSEWHERE[name]))


GUARDS = {
    "Normal": ("domain-error", """
scale = nn.Linear(3, 1)
for xb, yb in loader:
    raw = torch.log(xb.sum(1)) * model(xb).squeeze(1)  # BAD-HERE
    loss = -torch.distributions.Normal(raw, torch.ones(4)).log_prob(yb).mean()
    update(loss)
"""),
    "Categorical": ("log-of-zero", """
for xb, yb in loader:
    logits = model(xb) * torch.log(xb)  # BAD-HERE
    picked = torch.distributions.Categorical(logits=logits)
    loss = -picked.log_prob(torch.zeros(len(xb))).mean()
    update(loss)
"""),
    "svd": ("log-of-zero", """
for xb, yb in loader:
    table = torch.log(xb) * model.weight  # BAD-HERE
    loss = torch.linalg.svdvals(table).sum() + model(xb).sum()
    update(loss)
"""),
    "eigh": ("log-of-zero", """
for xb, yb in loader:
    table = torch.log(xb) * model.weight  # BAD-HERE
    loss = torch.linalg.eigh(table.T @ table).eigenvalues.sum()
    update(loss)
"""),
}  # fmt: skip


@pytest.mark.parametrize("name", GUARDS)
def test_library_guards(name: str, training: Any) -> None:
    _, script = GUARDS[name]
    run = training(HEAD + LOADER + script)
    incident = run.incident
    assert run.status == 3, run.stderr
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line("# BAD-HERE")
    assert incident["step"] == 4
    assert [sample["index"] for sample in incident["samples"]] == [17]


def test_boxes_without_height(training: Any) -> None:
    run = training(
        HEAD
        + """
import torchvision
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
detector.train()
boxes = torch.tensor([[10.0, 10.0, 50.0, 60.0]]).repeat(4, 1)
boxes[2, 3] = 10.0

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return torch.rand(3, 64, 64), {"boxes": boxes[i : i + 1].clone(), "labels": torch.ones(1, dtype=torch.int64)}

for images, targets in torch.utils.data.DataLoader(Images(), batch_size=2, collate_fn=lambda batch: tuple(zip(*batch))):
    losses = detector(list(images), list(targets))  # BAD-HERE
    loss = sum(losses.values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
    )
    incident = run.incident
    assert incident["causes"][0]["slug"] == "degenerate-box"
    assert incident["step"] == 1
    assert [sample["index"] for sample in incident["samples"]] == [2]


def test_a_batch_that_the_script_skips(training: Any) -> None:
    script = (
        HEAD
        + LOADER
        + """
for xb, yb in loader:
    loss = loss_of(xb, yb)
    if not torch.isfinite(loss):
        print("skipped")
        continue
    update(loss)
print("done")
torch.save(model.state_dict(), "weights.pt")
"""
    )
    run = training(script)
    assert run.status == 0, run.stderr
    assert run.stdout == "skipped\ndone\n"
    assert run.report["outcome"] == "healthy"
    assert not run.report["incidents"]
    (skipped,) = run.report["skipped"]
    assert (skipped["origin"]["file"], skipped["origin"]["line"]) == run.line()
    assert skipped["step"] == 4
    plain = training(script, plain=True)
    assert (plain.place / "weights.pt").read_bytes() == (run.place / "weights.pt").read_bytes()


def test_batches_that_the_script_skips_for_ever(training: Any) -> None:
    run = training(
        HEAD
        + """
x[17:] = 0.0
"""
        + LOADER
        + """
for epoch in range(10):
    for xb, yb in loader:
        loss = loss_of(xb, yb)
        if not torch.isfinite(loss):
            continue
        update(loss)
    if epoch == 1:
        x[:] = 0.0
"""
    )
    incident = run.incident
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line()
