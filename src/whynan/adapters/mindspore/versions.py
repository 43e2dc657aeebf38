"""Where MindSpore's versions differ: the module of the executor, and how a function is differentiated."""

from collections.abc import Callable
from typing import Any

from mindspore.ops.composite import base

from whynan.adapters.common.patches import Patches

try:
    from mindspore.graph import api
except ImportError:  # before 2.9
    from mindspore.common import api

__all__ = ["api", "differentiates"]
_Make = Callable[[Any], Any]


def differentiates(patches: Patches, forward: _Make, backward: _Make) -> None:
    """Replace what runs a function to be differentiated, and what differentiates it.

    `forward` is given a function of (function, whether a sensitivity comes last, *arguments) that returns (arguments,
    result), `backward` one of (function, gradient operation, weights, ...).
    """
    if hasattr(base, "_pynative_forward_run"):
        patches.replace(base, "_pynative_forward_run", forward)
        patches.replace(base, "_pynative_func_grad_backward", backward)
        return
    ended: list[Any] = [None, ()]  # what was run last, and its result: GradOperation drops it

    def ending(original: Any) -> Any:
        def end_graph(executor: Any, run: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
            ended[:] = run, output
            return original(executor, run, output, *args, **kwargs)

        return end_graph

    def running(original: Any) -> Any:
        def run(grad: Any, fn: Any, inner: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
            def plain(fn: Any, sens_param: bool, *args: Any, **kwargs: Any) -> Any:
                found = original(grad, fn, inner, weights, *args, **kwargs)
                arguments, out = found if gives_result else (found, ())
                # A cell that has just been called is not run again.
                is_run = isinstance(out, tuple) and not out and ended[0] is fn
                return arguments, ended[1] if is_run else out

            gives_result = isinstance(grad, base._Grad)
            arguments, out = forward(plain)(fn, grad.sens_param, *args, **kwargs)
            ended[:] = None, ()
            return (arguments, out) if gives_result else arguments

        return run

    def differentiating(original: Any) -> Any:
        def grad(executor: Any, fn: Any, operation: Any, weights: Any, *args: Any) -> Any:
            return backward(lambda *given: original(executor, *given))(fn, operation, weights, *args)

        return grad

    for kind in (base.GradOperation, base._Grad):
        patches.replace(kind, "_pynative_forward_run", running)
    patches.replace(api._PyNativeExecutor, "end_graph", ending)
    for name in ("grad", "grad_aux"):
        patches.replace(api._PyNativeExecutor, name, differentiating)
