"""After watching, PyTorch and Python are as they were."""

import builtins
import logging
import sys
import warnings

import torch
from torch.optim import optimizer as optimizers
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from whynan.adapters.torch.attempt import Quiet
from whynan.adapters.torch.frames import ModuleStack
from whynan.adapters.torch.snapshot import KnownState
from whynan.adapters.torch.watch import Watch


def state() -> dict[str, object]:
    modules = torch.nn.modules.module
    return {
        "backward": torch.autograd.backward,
        "grad": torch.autograd.grad,
        "func.grad": torch.func.grad,
        "func.grad_and_value": torch.func.grad_and_value,
        "scaler": {name: value for name, value in vars(torch.amp.GradScaler).items() if callable(value)},
        "tensor": {name: getattr(torch.Tensor, name) for name in ("item", "tolist", "__float__", "backward")},
        "own tensor names": sorted(vars(torch.Tensor)),
        "hooks": [dict(hooks) for hooks in (modules._global_forward_hooks, modules._global_forward_pre_hooks)],
        "steps": [
            dict(hooks) for hooks in (optimizers._global_optimizer_pre_hooks, optimizers._global_optimizer_post_hooks)
        ],
        "modes": _get_current_dispatch_mode_stack(),
        "streams": (sys.stdout, sys.stderr, builtins.open, torch.save),
        "logging": logging.root.manager.disable,
        "warnings": list(warnings.filters),
    }


def test_watching_is_undone():
    torch.optim.SGD([torch.ones(1, requires_grad=True)]).step()  # what PyTorch imports at its first step is not ours
    before = state()
    watch = Watch(KnownState(), lambda event: None)
    watch.install()
    assert torch.autograd.backward is not before["backward"]
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    (weight * 2).sum().backward()
    optimizer.step()
    assert weight.sum().item() < 2
    watch.uninstall()
    assert state() == before


def test_quiet_is_undone(capsys, tmp_path):
    before = state()
    quiet = Quiet()
    quiet.enter()
    print("nobody hears this")
    with open(tmp_path / "written.txt", "w") as file:
        file.write("nor reads this")
    quiet.leave()
    quiet.leave()
    assert state() == before
    assert capsys.readouterr().out == "" and not (tmp_path / "written.txt").exists()


def test_modules_are_followed_and_let_go():
    before = state()
    inner = torch.nn.Linear(2, 2)
    model = torch.nn.Sequential(inner, torch.nn.ReLU())
    stack, seen = ModuleStack(), []
    stack.name_from({"model": model})
    handle = inner.register_forward_pre_hook(lambda module, args: seen.append(stack.current()))
    stack.enter()
    model(torch.ones(1, 2))
    assert stack.current() == (None, None)
    stack.leave()
    handle.remove()
    assert seen == [("0", "Linear")]
    assert state() == before


def test_a_module_that_raises_leaves_the_stack():
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise ValueError("no")

    stack = ModuleStack()
    stack.enter()
    try:
        Broken()(torch.ones(1))
    except ValueError:
        pass
    assert stack.current() == (None, None)
    stack.leave()
