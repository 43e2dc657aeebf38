"""Each line of the migration page, and the page of guarded operations."""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from whynan.torch import clip, init, layers, losses, ops, schedules

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "migration.md").read_text(encoding="utf-8").partition("## Other frameworks")[0]
LINES = re.findall(r"^\| `(.+?)` \| `(.+?)` \|", PAGE, re.M)


def namespace():
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    model = nn.Linear(4, 4)
    model(x).square().sum().backward()
    return {
        "torch": torch, "torchvision": torchvision, "nn": nn, "F": F, "math": math, "lr_scheduler": lr_scheduler,
        "clip": clip, "init": init, "layers": layers, "losses": losses, "ops": ops, "schedules": schedules,
        "x": x, "y": torch.rand(5, 4).round(), "p": torch.rand(5, 4) * 0.8 + 0.1, "q": torch.rand(5, 4) + 0.5,
        "c": torch.rand(5, 4) * 0.9, "v": torch.randn(5, 4) * 0.3, "mask": torch.tensor([True, False, True,
        True]).expand(5, 4),
        "labels": torch.tensor([0, 3, 1, 2, 0]), "boxes": torch.tensor([[0.0, 0, 2, 3], [1, 1, 4, 5]]),
        "others": torch.tensor([[1.0, 1, 3, 4], [1, 2, 4, 6]]), "frames": torch.randn(9, 2, 5).log_softmax(2),
        "texts": torch.tensor([[1, 2], [3, 4]]), "lengths": torch.tensor([9, 9]), "counts": torch.tensor([2, 1]),
        "model": model, "head": nn.Linear(3, 2), "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }  # fmt: skip


def state(names):
    return [p.grad.clone() for p in names["model"].parameters()], names["head"].bias.detach().clone()


@pytest.mark.parametrize("line", LINES, ids=[right for _, right in LINES])
def test_migration(line):
    seen = []
    for code in line:
        names = namespace()
        value = eval(code, names)
        seen.append((value if isinstance(value, torch.Tensor) and value.dim() < 3 else None, *state(names)))
    if "head" not in line[0] and "schedul" not in line[1]:
        torch.testing.assert_close(seen[0], seen[1], atol=2e-5, rtol=1e-4)
    elif "head" in line[0]:
        torch.testing.assert_close(seen[0][2], seen[1][2])


def test_there_are_lines():
    assert len(LINES) > 30


def test_each_operation_has_its_plot(tmp_path):
    page = (DOCS / "guarded-operations.md").read_text(encoding="utf-8")
    spec = importlib.util.spec_from_file_location("plot_guarded", DOCS / "plot_guarded.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.draw("log", tmp_path)
    for name in module.PLAIN:
        assert (DOCS / "guarded" / f"{name}.svg").exists()
        assert f"guarded/{name}.svg" in page
    for name in ops.__all__:
        assert f"`{name}" in page, f"{name} is not on the page"


def test_examples_of_the_page():
    page = (DOCS / "guarded-operations.md").read_text(encoding="utf-8")
    for code, shown in re.findall(r"^>>> (.+)\n(.+)$", page, re.M):
        assert repr(eval(code, {"ops": ops, "torch": torch})) == shown, code
