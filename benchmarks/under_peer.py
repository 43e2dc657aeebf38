"""Run a training script with another tool at work, and print what that tool names.

    python under_peer.py {probe,anomaly,sherlorch,torchlens,torchlens-backward} [--step K] train.py ARGS...

`probe` finds the failing step: the number of optimizer steps (of backward passes, where there is no optimizer) before
the first non-finite loss, gradient or parameter, or before the exception that ends the script. The other tools are at
work in that step alone (--step K), as their users would have them after a bisection by hand; without --step in each,
to measure what they cost. Anomaly mode is on throughout.

The last line of the output is JSON: {"line": a line of train.py or null, "said": the tool's own words}, or, of probe,
{"step": K}. torchlens takes a module and its input, no training loop: what the script does from one optimizer step to
the next backward pass is handed to it as the `forward` of a module, by running the script in a greenlet.
"""

import argparse
import json
import os
import re
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

TORCH_BACKWARD, TORCH_GRAD = torch.autograd.backward, torch.autograd.grad
TENSOR_BACKWARD = torch.Tensor.backward


def answer(**words: object) -> NoReturn:
    """Print and end at once: what the script would still do is of no interest."""
    sys.stdout.flush()
    print("\n" + json.dumps(words), flush=True)
    os._exit(0)


def is_bad(values: Any) -> bool:
    """Whether there is a NaN or Inf in a tensor or a sequence of tensors."""
    if isinstance(values, torch.Tensor):
        with torch.no_grad(), torch._C.DisableTorchFunction():
            return values.is_floating_point() and not bool(torch.isfinite(values.detach()).all())
    return isinstance(values, list | tuple) and any(is_bad(value) for value in values)


def line_in(script: str, text: str) -> int | None:
    """The innermost line of the script that a traceback, or `file:line`, speaks of."""
    name = re.escape(os.path.basename(script))
    found = re.findall(rf'{name}", line (\d+)|{name}:(\d+)', text)
    return int(found[-1][0] or found[-1][1]) if found else None


class Peer:
    """Told of what the script does, step by step."""

    def __init__(self, script: str, at: int | None) -> None:
        self.script, self.at, self.step = script, at, 0

    def is_due(self) -> bool:
        return self.at is None or self.step == self.at

    def begin(self) -> None:
        """Before the script, and after each optimizer step."""

    def before_backward(self, losses: Any) -> None: ...

    def gradients(self, gradients: list[torch.Tensor]) -> None:
        """After a backward pass, as the optimizer is going to use them."""

    def parameters(self, parameters: list[torch.Tensor]) -> None:
        """After an optimizer step."""

    def failed(self, error: BaseException) -> None:
        """The script ended with an exception."""

    def ended(self) -> None: ...

    def run(self, script: Callable[[], None]) -> None:
        self.begin()
        script()


class Probe(Peer):
    def before_backward(self, losses: Any) -> None:
        if is_bad(losses):
            answer(step=self.step)

    def gradients(self, gradients: list[torch.Tensor]) -> None:
        if is_bad(gradients):
            answer(step=self.step)

    parameters = gradients

    def failed(self, error: BaseException) -> None:
        answer(step=self.step)

    def ended(self) -> None:
        answer(step=None)


class Anomaly(Peer):
    """torch.autograd.set_detect_anomaly: raises in the backward pass, the forward line is in a warning before that."""

    def begin(self) -> None:
        if self.step == 0:
            self.said: list[str] = []
            torch.autograd.set_detect_anomaly(True)
            warnings.showwarning = lambda message, *_: self.said.append(str(message))
            warnings.simplefilter("always")

    def failed(self, error: BaseException) -> None:
        forward = next((text for text in reversed(self.said) if "Traceback of forward call" in text), "")
        if "returned nan values" in str(error):
            answer(line=line_in(self.script, forward), said=str(error))


class Sherlorch(Peer):
    """Records while enabled; asked about loss and gradients, at an exception for its first non-finite operation."""

    def begin(self) -> None:
        import sherlorch

        if self.step == 0 and not hasattr(self, "tracker"):
            self.tracker = sherlorch.trace(capture_stack=self.at is not None)
            self.tracker.__enter__()
        self.tracker.reset()
        (self.tracker.enable if self.is_due() else self.tracker.disable)()

    def ask(self, tensors: Any) -> None:
        if self.at is None or not self.is_due():
            return
        for tensor in tensors if isinstance(tensors, list | tuple) else [tensors]:
            if is_bad(tensor):
                try:
                    (culprit, *_) = self.tracker.diagnose(tensor).culprits or [None]
                except KeyError:
                    continue
                if culprit is not None:
                    answer(line=line_in(self.script, culprit.location or ""), said=culprit.summary())

    before_backward = ask
    gradients = ask
    parameters = ask

    def failed(self, error: BaseException) -> None:
        nodes = [node for node in vars(self.tracker).get("_nodes", {}).values() if not getattr(node, "is_finite", True)]
        first = min(nodes, key=lambda node: node.seq, default=None)
        if first is not None:
            answer(line=line_in(self.script, first.location or ""), said=first.summary())


class Torchlens(Peer):
    """The part of a step up to its backward pass is the `forward` of a module for `find_nan`."""

    def run(self, script: Callable[[], None]) -> None:
        import torchlens.backends.torch.rescue
        from greenlet import getcurrent, greenlet

        # torchlens would run `forward` again where it doubts its first look; the part of a step runs but once.
        torchlens.backends.torch.rescue.capture_with_rescue = lambda capture, **_: capture()

        def forward() -> None:
            """Bears the name from which torchlens counts the frames of a source line."""
            script()

        self.main, self.script_greenlet, self.loss = getcurrent(), greenlet(forward), None
        self.waiting = False
        self.script_greenlet.switch()
        while not self.script_greenlet.dead:
            self.capture()

    def begin(self) -> None:
        self.waiting = False
        if self.is_due() and not self.script_greenlet.dead:
            self.waiting = True
            self.main.switch()

    def before_backward(self, losses: Any) -> None:
        if self.waiting:
            self.waiting = False
            self.loss = losses[0] if isinstance(losses, list | tuple) else losses
            self.main.switch()

    def as_module(self) -> torch.nn.Module:
        peer = self

        def backward(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            peer.before_backward(loss)
            TENSOR_BACKWARD(loss, *args, **kwargs)

        class PartOfStep(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                # In place of torchlens's own wrapper, which could not be left for `main` and entered again.
                torch.Tensor.backward = backward
                peer.script_greenlet.switch()
                return x if peer.loss is None else peer.loss

        return PartOfStep()

    def capture(self) -> None:
        import torchlens

        found = torchlens.debug.find_nan(self.as_module(), torch.zeros(1))
        if found.found:
            self.name_op(found.op, f"{found.label} {found.source_line}")
        if self.at is not None:
            answer(line=None, said=str(found))
        if not self.script_greenlet.dead:
            self.script_greenlet.switch()

    def name_op(self, op: Any, said: str) -> NoReturn:
        """The innermost line of the script, of the frames that torchlens keeps with the operation."""
        frames = " ".join(f"{frame.file}:{frame.line_number}" for frame in getattr(op, "code_context", None) or [])
        answer(line=line_in(self.script, said) or line_in(self.script, frames), said=said)


class TorchlensBackward(Torchlens):
    """The same for `bisect_nan_backward`."""

    def capture(self) -> None:
        import torchlens

        options = torchlens.options.CaptureOptions(save_grads=True, save_code_context=True)
        trace = torchlens.trace(self.as_module(), torch.zeros(1), capture=options)
        trace.log_backward(trace[trace.output_layers[0]].out)
        found = torchlens.debug.bisect_nan_backward(trace)
        if found.birth is None or found.birth.op_label is None:
            answer(line=None, said=found.message)
        self.name_op(trace[found.birth.op_label], found.message)


PEERS = {
    "probe": Probe,
    "anomaly": Anomaly,
    "sherlorch": Sherlorch,
    "torchlens": Torchlens,
    "torchlens-backward": TorchlensBackward,
}


def listen(peer: Peer) -> None:
    """Have the peer told of backward passes and optimizer steps."""
    steps_by_optimizer = False
    make_optimizer = torch.optim.Optimizer.__init__

    def made_optimizer(*args: Any, **kwargs: Any) -> None:
        nonlocal steps_by_optimizer
        steps_by_optimizer = True
        make_optimizer(*args, **kwargs)

    def next_step() -> None:
        peer.step += 1
        peer.begin()

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        peer.before_backward(tensors)
        TORCH_BACKWARD(tensors, *args, **kwargs)
        if not steps_by_optimizer:
            next_step()

    def grad(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        peer.before_backward(outputs)
        gradients = TORCH_GRAD(outputs, *args, **kwargs)
        peer.gradients(list(gradients))
        if not steps_by_optimizer:
            next_step()
        return gradients

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        peer.gradients([p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None])

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        peer.parameters([p for group in optimizer.param_groups for p in group["params"]])
        next_step()

    torch.autograd.backward, torch.autograd.grad = backward, grad
    torch.optim.Optimizer.__init__ = made_optimizer
    register_optimizer_step_pre_hook(before_step)
    register_optimizer_step_post_hook(after_step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--step", type=int)
    parser.add_argument("script")
    parser.add_argument("args", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    peer = PEERS[args.peer](args.script, args.step)
    sys.argv = [args.script, *args.args]
    sys.path[0] = os.path.dirname(os.path.abspath(args.script))
    listen(peer)

    def script() -> None:
        try:
            if isinstance(peer, Torchlens):
                peer.begin()
            runpy.run_path(args.script, run_name="__main__")
        except BaseException as error:
            if type(error).__module__.startswith(("torchlens", "greenlet")):
                raise
            peer.failed(error)
            traceback.print_exc()

    peer.run(script)
    peer.ended()
    answer(line=None, said="nothing")


if __name__ == "__main__":
    main()
