"""Whatever a training loop looks like, the failing step is replayed and its line, cause and sample are found."""

from typing import Any

import pytest
from tests.shapes.scripts import HEAD, LOADER

# Each is the end of a script whose fifth step meets row 17, the zeros.
SHAPES = {
    "DataLoader": LOADER + """
for xb, yb in loader:
    update(loss_of(xb, yb))
""",
    "DataLoader, shuffled": """
from torch.utils.data import DataLoader, TensorDataset
order = [i for i in range(40) if i != 17]
order.insert(18, 17)
loader = DataLoader(TensorDataset(x, y), batch_size=4, sampler=order)
for batch in loader:
    xb, yb = batch
    update(loss_of(xb, yb))
""",
    "rows by index": """
for step in range(10):
    rows = torch.arange(step * 4, step * 4 + 4)
    xb, yb = x[rows], y[rows]
    loss = loss_of(xb, yb)
    opt.zero_grad()
    loss.backward()
    opt.step()
""",
    "rows by a permutation": """
order = torch.tensor([i for i in range(16)] + [20, 17, 19, 18] + [16, 21, 22, 23])
for i in range(0, 24, 4):
    idx = order[i : i + 4]
    loss = loss_of(x[idx], y[idx])
    update(loss)
""",
    "rows by index_select": """
for step in range(10):
    rows = torch.arange(step * 4, step * 4 + 4)
    update(loss_of(x.index_select(0, rows), y.index_select(0, rows)))
""",
    "rows by slice": """
for step in range(10):
    xb, yb = x[step * 4 : step * 4 + 4], y[step * 4 : step * 4 + 4]
    update(loss_of(xb, yb))
""",
    "rows of split": """
for xb, yb in zip(x.split(4), y.split(4)):
    update(loss_of(xb, yb))
""",
    "NumPy rows, from_numpy": """
X, Y = x.numpy(), y.numpy()
for step in range(10):
    rows = np.arange(step * 4, step * 4 + 4)
    xb, yb = torch.from_numpy(X[rows]), torch.from_numpy(Y[rows])
    update(loss_of(xb, yb))
""",
    "NumPy rows, tensor": """
X, Y = x.numpy().astype("float64"), y.numpy()
rng = np.random.default_rng(0)
for step in range(10):
    rows = np.concatenate([np.arange(step * 4, step * 4 + 4)])
    xb = torch.tensor(X[rows], dtype=torch.float32)
    yb = torch.tensor(Y[rows])
    update(loss_of(xb, yb))
""",
    "NumPy slices": """
X, Y = x.numpy(), y.numpy()
for start in range(0, 40, 4):
    xb = torch.from_numpy(X[start : start + 4])
    yb = torch.from_numpy(Y[start : start + 4])
    update(loss_of(xb, yb))
""",
    "while with next": LOADER + """
it = iter(loader)
step = 0
while step < 10:
    xb, yb = next(it)
    update(loss_of(xb, yb))
    step += 1
""",
    "for with next, restarted": LOADER + """
it = iter(loader)
for step in range(12):
    try:
        xb, yb = next(it)
    except StopIteration:
        it = iter(loader)
        xb, yb = next(it)
    update(loss_of(xb, yb))
""",
    "nested epochs": LOADER + """
def main():
    for epoch in range(2):
        total = 0.0
        for i, (xb, yb) in enumerate(loader):
            loss = loss_of(xb, yb)
            update(loss)
            total += loss.detach()
main()
""",
    "enumerate and zip": """
def main():
    for i, (xb, yb) in enumerate(zip(x.split(4), y.split(4))):
        loss = loss_of(xb, yb)
        update(loss)
main()
""",
    "a progress bar": LOADER + """
def bar(items):
    for n, item in enumerate(items):
        yield item
        sys.stderr.write(".")

def main():
    for xb, yb in bar(loader):
        loss = loss_of(xb, yb)
        update(loss)
main()
""",
    "a generator of batches": """
def batches(n):
    start = 0
    while start < 40:
        yield x[start : start + n], y[start : start + n]
        start += n

def main():
    for xb, yb in batches(4):
        loss = loss_of(xb, yb)
        update(loss)
main()
""",
    "step in a function": LOADER + """
def train_step(batch):
    xb, yb = batch
    loss = loss_of(xb, yb)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.item()

def fit(epochs):
    losses = []
    for epoch in range(epochs):
        for batch in loader:
            losses.append(train_step(batch))
    return losses
fit(2)
""",
    "a trainer class": LOADER + """
class Trainer:
    def __init__(self, model, optimizer, loader):
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.step, self.losses = 0, []

    def fit(self, epochs):
        for self.epoch in range(epochs):
            self.run_epoch()

    def run_epoch(self):
        for batch in self.loader:
            self.training_step(*batch)
            self.step += 1

    def training_step(self, xb, yb):
        loss = loss_of(xb, yb)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(float(loss))

Trainer(model, opt, loader).fit(2)
""",
    "carried state": """
def main():
    hidden = torch.zeros(4)
    total, losses, best = 0.0, [], math.inf
    for step, (xb, yb) in enumerate(zip(x.split(4), y.split(4))):
        hidden = torch.tanh(0.5 * hidden + model(xb).squeeze(1)).detach()
        loss = loss_of(xb, yb) + 0.1 * (hidden * model(xb).squeeze(1)).mean()
        update(loss)
        total += loss.item()
        losses.append(loss.item())
        best = min(best, loss.item())
main()
""",
    "a closure": """
def make_step(scale):
    n = 0
    def step(xb, yb):
        nonlocal n
        n += 1
        loss = scale * loss_of(xb, yb)
        update(loss)
        return n
    return step

def main():
    step = make_step(2.0)
    for xb, yb in zip(x.split(4), y.split(4)):
        step(xb, yb)
main()
""",
    "a with block": """
def main():
    with open("log.txt", "w") as log, torch.autograd.set_grad_enabled(True):
        for xb, yb in zip(x.split(4), y.split(4)):
            loss = loss_of(xb, yb)
            update(loss)
            print(float(loss.detach()), file=log)
main()
""",
    "try and finally": LOADER + """
try:
    for epoch in range(2):
        try:
            for xb, yb in loader:
                update(loss_of(xb, yb))
        except KeyboardInterrupt:
            raise
        finally:
            print("epoch over")
finally:
    print("over")
""",
    "except Exception inside": LOADER + """
for xb, yb in loader:
    try:
        update(loss_of(xb, yb))
    except Exception as error:
        print("never seen", error)
""",
    "except BaseException around": LOADER + """
try:
    for xb, yb in loader:
        update(loss_of(xb, yb))
except BaseException:
    print("seen")
    raise
""",
    "LBFGS": """
opt = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
for step in range(10):
    xb, yb = x[step * 4 : step * 4 + 4], y[step * 4 : step * 4 + 4]
    def closure():
        opt.zero_grad()
        loss = loss_of(xb, yb)
        loss.backward()
        return loss
    opt.step(closure)
""",
    "torch.func, updates by hand": """
from torch.func import functional_call, grad
params = {name: p.detach().clone() for name, p in model.named_parameters()}

def f(params, xb, yb):
    weight = torch.log(xb.sum(1))  # BAD-HERE
    return ((functional_call(model, params, (xb,)).squeeze(1) - yb) ** 2 * weight).mean()

for step in range(10):
    xb, yb = x[step * 4 : step * 4 + 4], y[step * 4 : step * 4 + 4]
    grads = grad(f)(params, xb, yb)
    params = {name: p - 0.01 * grads[name] for name, p in params.items()}
""",
    "autograd.grad, in place": """
w = torch.randn(3, requires_grad=True)
b = torch.zeros((), requires_grad=True)
for step in range(10):
    xb, yb = x[step * 4 : step * 4 + 4], y[step * 4 : step * 4 + 4]
    loss = ((xb @ w + b - yb) ** 2 * torch.log(xb.sum(1))).mean()  # BAD-HERE
    gw, gb = torch.autograd.grad(loss, [w, b])
    with torch.no_grad():
        w -= 0.01 * gw
        b -= 0.01 * gb
""",
    "autograd.grad, rebound": """
def main():
    w = torch.randn(3, requires_grad=True)
    for step in range(10):
        xb, yb = x[step * 4 : step * 4 + 4], y[step * 4 : step * 4 + 4]
        loss = ((xb @ w - yb) ** 2 * torch.log(xb.sum(1))).mean()  # BAD-HERE
        (g,) = torch.autograd.grad(loss, [w])
        w = (w - 0.01 * g).detach().requires_grad_()
main()
""",
    "backward, updates by hand": """
def main():
    w = torch.randn(3, requires_grad=True)
    for step in range(10):
        xb, yb = x[step * 4 : step * 4 + 4], y[step * 4 : step * 4 + 4]
        loss = ((xb @ w - yb) ** 2 * torch.log(xb.sum(1))).mean()  # BAD-HERE
        loss.backward()
        with torch.no_grad():
            w -= 0.01 * w.grad
            w.grad.zero_()
main()
""",
    "a list of dicts": """
data = [{"x": x[i], "y": y[i]} for i in range(40)]
for start in range(0, 40, 4):
    batch = data[start : start + 4]
    xb = torch.stack([item["x"] for item in batch])
    yb = torch.stack([item["y"] for item in batch])
    update(loss_of(xb, yb))
""",
    "one sample at a time, averaged": """
for start in range(0, 40, 4):
    opt.zero_grad()
    for i in range(start, start + 4):
        loss = loss_of(x[i : i + 1], y[i : i + 1]) / 4
        loss.backward()
    opt.step()
""",
}  # fmt: skip

WITHOUT_STEPS = {
    "torch.func, updates by hand",
    "autograd.grad, in place",
    "autograd.grad, rebound",
    "backward, updates by hand",
}


def check(run: Any, cause: str = "log-of-zero", step: int | None = 4, sample: int | None = 17) -> None:
    incident = run.incident
    assert run.status == 3, run.stderr
    mark = "# BAD-HERE" if "# BAD-HERE" in (run.place / "train.py").read_text() else "# BAD"
    assert incident["replay"]["reproduced"], incident["replay"]
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line(mark)
    assert incident["causes"][0]["slug"] == cause
    if step is not None:
        assert incident["step"] == step
    if sample is not None:
        assert [found["index"] for found in incident["samples"]] == [sample]


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str, training: Any) -> None:
    run = training(HEAD + SHAPES[name])
    check(run, step=None if name in WITHOUT_STEPS else 4)
    assert "whynan" not in run.stdout
    assert "the run goes on without it" not in run.stderr
