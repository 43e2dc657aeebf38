"""A training run under whynan ends with the same bits as under plain python."""

from typing import Any

import pytest

TRAINING = """
    import hashlib, random, sys
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from data import Points

    def train(method, n_workers):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        context = method if n_workers else None
        loader = DataLoader(
            Points(), batch_size=8, shuffle=True, num_workers=n_workers, multiprocessing_context=context
        )
        for epoch in range(2):
            total = 0.0
            for step, (x, y) in enumerate(loader):
                loss = nn.functional.mse_loss(model(x).squeeze(1), y)
                if torch.isnan(loss):
                    break
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += loss.item()
            print(epoch, step, total)
        for name, value in model.state_dict().items():
            print(name, hashlib.sha256(value.numpy().tobytes()).hexdigest())
        print(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(), random.random() < 2)

    if __name__ == "__main__":
        torch.set_num_threads(1)
        train(sys.argv[1], int(sys.argv[2]))
"""

DATA = """
    import torch
    from torch.utils.data import Dataset

    class Points(Dataset):
        def __len__(self):
            return 40
        def __getitem__(self, i):
            x = torch.zeros(4)
            for k in range(4):
                x[k] = float(torch.rand(()) + i)
            return x / 40, x.sum()
"""


@pytest.mark.parametrize(("method", "n_workers"), [("none", "0"), ("fork", "2"), ("spawn", "1")])
def test_training_is_like_python(method: str, n_workers: str, like_python: Any) -> None:
    outcome = like_python({"main.py": TRAINING, "data.py": DATA}, "main.py", method, n_workers)
    assert outcome.status == 0, outcome.stderr


COMPILED = """
    import torch

    def scaled(x):
        for k in range(2):
            if k == 3:
                return x
            x = x * float(k + 1)
        return x

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(3))
        def forward(self, x):
            for layer in self.layers:
                x = scaled(layer(x)).relu()
            return x

    torch.manual_seed(0)
    model = Model()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = torch.randn(2, 3)
    for step in range(2):
        print(torch.equal(compiled(x), model(x)))
    print(torch._dynamo.utils.counters["stats"])
    print(torch.jit.script(model)(x).shape, torch.fx.symbolic_trace(model).code)
"""


def test_compiled_model_is_like_python(like_python: Any) -> None:
    outcome = like_python({"main.py": COMPILED})
    assert outcome.status == 0, outcome.stderr


GRAPH_BREAK = """
    import torch

    def scaled(x):
        for k in range(2):
            x = x * float(k + 1)
        return x

    @torch.compile(backend="eager")
    def broken_graph(x):
        for k in range(2):
            print("graph break", k)
            x = scaled(x)
        return x.sum()
    print(broken_graph(x))
"""


def test_a_function_that_was_not_compiled_is_like_python(like_python: Any) -> None:
    like_python({"main.py": GRAPH_BREAK.replace("print(broken", "x = torch.ones(2)\n    print(broken")})


READING = """
    import torch

    x = torch.tensor(2.0, requires_grad=True)
    for _ in range(2):
        print(float(x))
"""


def test_a_warning_of_pytorch_names_the_users_line(like_python: Any) -> None:
    outcome = like_python({"main.py": READING})
    assert "main.py" in outcome.stderr
