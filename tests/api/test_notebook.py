"""`%load_ext whynan` and `%%whynan` in a real IPython shell."""

from collections.abc import Iterator
from typing import Any

import pytest

CELL = """
import torch
torch.manual_seed(0)
x = torch.rand(40, 3) + 0.1
x[17] = 0.0
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=4)
for (xb,) in loader:
    weight = torch.log(xb.sum(1))
    loss = (model(xb).squeeze(1) * weight).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.fixture
def shell() -> Iterator[Any]:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "whynan")
    yield shell
    shell.reset()
    InteractiveShell.clear_instance()


def test_a_cell_is_explained(shell: Any) -> None:
    report = shell.run_cell_magic("whynan", "--no-prove", CELL)
    assert report.outcome == "non-finite"
    assert report.origin.op == "log"
    assert report.origin.source.code == "weight = torch.log(xb.sum(1))"
    assert [sample.index for sample in report.samples] == [17]
    assert "<iframe" in report._repr_html_()


def test_a_cells_names_stay(shell: Any) -> None:
    report = shell.run_cell_magic("whynan", "--policy observe --no-prove", "import torch\nanswer = 6 * 7\n")
    assert report.outcome == "healthy"
    assert shell.user_ns["answer"] == 42


def test_a_cells_own_error_is_its_own(shell: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        shell.run_cell_magic("whynan", "", "1 / 0\n")
