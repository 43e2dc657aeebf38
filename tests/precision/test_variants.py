"""Precision, compilation, what else a step is made of: the same fault is found in each, the healthy twin is silent."""

from typing import Any

import pytest

# ruff: noqa: E501

HEAD = """
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.rand(40, 3) + 0.1
y = torch.rand(40)
x[17] = 0.0
model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
opt = torch.optim.Adam(model.parameters(), lr=0.01)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)

def loss_of(prediction, xb, yb):
    weight = torch.log(xb.sum(1))  # BAD
    return ((prediction.float().squeeze(1) - yb) ** 2 * weight).mean()

def update(loss):
    opt.zero_grad()
    loss.backward()
    opt.step()
"""
LOOP = """
for epoch in range(2):
    for xb, yb in loader:
        update(loss_of(model(xb), xb, yb))
"""
SCALED = """
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
for epoch in range(2):
    for xb, yb in loader:
        with torch.autocast("cpu", dtype=torch.float16):
            prediction = model(xb)
        loss = loss_of(prediction, xb, yb)
        opt.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
"""
BLOCKS = """
class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.head = nn.Linear(3, 1)
    def forward(self, xb, yb):
        weight = torch.log(xb.sum(1))  # BAD
        h = xb
        for block in self.blocks:
            h = torch.relu(block(h))
        return ((self.head(h).squeeze(1) - yb) ** 2 * weight).mean()

model = Blocks()
opt = torch.optim.Adam(model.parameters(), lr=0.01)
compiled = torch.compile(model, backend="BACKEND", fullgraph=True)
for epoch in range(2):
    for xb, yb in loader:
        update(compiled(xb, yb))
"""
HEAD_WITHOUT_LOSS = HEAD.replace("  # BAD", "")
VARIANTS = {
    "bfloat16 autocast": HEAD
    + LOOP.replace(
        "update(loss_of(model(xb), xb, yb))",
        'with torch.autocast("cpu", dtype=torch.bfloat16):\n            loss = loss_of(model(xb), xb, yb)\n        update(loss)',
    ),
    "bfloat16 parameters": HEAD.replace("opt = ", "model = model.bfloat16()\nopt = ", 1)
    + LOOP.replace("model(xb)", "model(xb.bfloat16())"),
    "float16 with a scaler": HEAD + SCALED,
    "foreach": HEAD.replace("lr=0.01", "lr=0.01, foreach=True") + LOOP,
    "fused": HEAD.replace("lr=0.01", "lr=0.01, fused=True") + LOOP,
    "compiled, aot_eager": HEAD_WITHOUT_LOSS + BLOCKS.replace("BACKEND", "aot_eager"),
    "checkpointing": HEAD
    + LOOP.replace(
        "loss_of(model(xb), xb, yb)",
        "torch.utils.checkpoint.checkpoint(lambda a: loss_of(model(a), a, yb), xb, use_reentrant=False)",
    ).replace("for epoch", "import torch.utils.checkpoint\nfor epoch"),
    "channels last": HEAD.replace(
        "model = nn.Sequential(", "model = nn.Sequential(nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 3, 1), nn.Flatten(), "
    ).replace("opt = ", "model = model.to(memory_format=torch.channels_last)\nopt = ", 1)
    + LOOP,
    "accumulation": HEAD
    + """
for epoch in range(2):
    for n, (xb, yb) in enumerate(loader):
        loss = loss_of(model(xb), xb, yb) / 2
        loss.backward()
        if n % 2 == 1:
            opt.step()
            opt.zero_grad()
""",
    "moving average": HEAD
    + """
average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
"""
    + LOOP.replace(
        "update(loss_of(model(xb), xb, yb))",
        "update(loss_of(model(xb), xb, yb))\n        average.update_parameters(model)",
    ),
    "tied weights": HEAD.replace(
        "opt = ",
        "model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 1))\nmodel[2].weight = model[0].weight\nopt = ",
        1,
    )
    + LOOP,
    "sparse embeddings": HEAD.replace(
        "opt = torch.optim.Adam(model.parameters(), lr=0.01)",
        "model = nn.Sequential(nn.Embedding(5, 1, sparse=True), nn.Flatten())\nopt = torch.optim.SparseAdam(list(model.parameters()), lr=0.01)",
    )
    + LOOP.replace("model(xb)", "model((xb[:, 0] * 4).long())"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_fault_is_found(name: str, training: Any) -> None:
    run = training(VARIANTS[name])
    incident = run.incident
    assert run.status == 3, run.stderr
    assert incident["replay"]["reproduced"], incident["replay"]
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line()
    assert incident["causes"][0]["slug"] == "log-of-zero"
    assert [sample["index"] for sample in incident["samples"]] == [17]


RISKY = (
    "float16 with a scaler",
    "compiled, aot_eager",
    "checkpointing",
    "accumulation",
    "moving average",
    "sparse embeddings",
)
"""What has operations or numbers of its own that could be taken for a fault."""


@pytest.mark.parametrize("name", RISKY)
def test_the_healthy_twin_is_silent(name: str, training: Any) -> None:
    run = training(VARIANTS[name].replace("x[17] = 0.0", ""))
    assert (run.status, run.report["outcome"], run.stderr) == (0, "healthy", "")


def test_clipping_before_unscaling_is_told(training: Any) -> None:
    script = VARIANTS["float16 with a scaler"].replace("x[17] = 0.0", "")
    run = training(script.replace("        scaler.unscale_(opt)\n", ""))
    assert run.status == 0 and run.report["outcome"] == "healthy"
    assert run.stderr.count("call scaler.unscale_(optimizer) before it") == 1


MAX_AUTOTUNE = HEAD_WITHOUT_LOSS + BLOCKS.replace('backend="BACKEND"', 'mode="max-autotune"')
EIGHT_BITS = (
    HEAD.replace("nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)", "nn.Linear(3, 1366), nn.ReLU(), nn.Linear(1366, 1)")
    .replace("opt = torch.optim.Adam(", "from torchao.optim import AdamW8bit\nopt = AdamW8bit(")
    .replace("import torch\n", "import os\nos.environ['TORCHDYNAMO_DISABLE'] = '1'\nimport torch\n", 1)
    + LOOP
)
"""Parameters of 4096 numbers or more have 8-bit state. Its update is compiled, which would take a minute."""


@pytest.mark.parametrize("name", ["max-autotune", "8 bits"])
def test_compiled_with_search_and_quantized_state(name: str, training: Any) -> None:
    run = training({"max-autotune": MAX_AUTOTUNE, "8 bits": EIGHT_BITS}[name])
    incident = run.incident
    assert (run.status, incident["replay"]["reproduced"]) == (3, True), run.stderr
    assert (incident["origin"]["file"], incident["origin"]["line"]) == run.line()
    assert [sample["index"] for sample in incident["samples"]] == [17]
    assert "failed" not in run.stderr


def test_state_of_8_bits_is_put_back() -> None:
    torch = pytest.importorskip("torch")
    from torchao.optim.subclass_8bit import OptimState8bit

    from whynan.adapters.torch.snapshot import TensorCopies

    state = OptimState8bit.zeros((2, 256))
    state.copy_(torch.linspace(-1, 1, 512).reshape(2, 256))
    before = state.dequantize()
    copies = TensorCopies([state])
    state.copy_(torch.zeros(2, 256))
    copies.restore()
    assert torch.equal(state.dequantize(), before)


def test_what_was_frozen_is_put_back() -> None:
    """A step that trains two networks by turns freezes one of them, and may be left in its middle."""
    import torch

    from whynan.adapters.torch.snapshot import GradientState

    one, other = torch.nn.Linear(2, 1).weight, torch.nn.Linear(2, 1).weight.requires_grad_(False)
    state = GradientState([one, other], copy=False)
    one.requires_grad_(False)
    other.requires_grad_(True)
    state.restore()
    assert (one.requires_grad, other.requires_grad) == (True, False)


def test_nothing_is_captured_into_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a CUDA graph is captured no look is made and no copy is taken: each would run with every replay of it."""
    import torch

    from whynan.adapters.torch.snapshot import KnownState, is_capturing
    from whynan.adapters.torch.watch import Watch

    events: list[Any] = []
    watch = Watch(KnownState(), events.append)
    watch.install()
    try:
        leaf = torch.ones(2, requires_grad=True)
        assert not is_capturing()
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_initialized", lambda: True)
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            (leaf.sum() * float("nan")).backward()
            assert not events and not watch.n_events
        (leaf.sum() * float("nan")).backward()
        assert events, "outside of a capture it is seen"
    finally:
        watch.uninstall()
