"""One call of a torch function, as a guard sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

EPS = {torch.float16: 1e-4, torch.bfloat16: 1e-7, torch.float32: 1e-7, torch.float64: 1e-12}
"""What keeps a logarithm's or divisor's argument away from 0."""
UNDER_ROOT = {torch.float16: 1e-4, torch.bfloat16: 1e-12, torch.float32: 1e-12, torch.float64: 1e-24}
EXP_LIMIT = {torch.float16: 10.0, torch.bfloat16: 80.0, torch.float32: 80.0, torch.float64: 700.0}


@dataclass
class Call:
    """A call `func(*args, **kwargs)`; `name` is the plain name: div for `a / b`, log for `x.log_()`."""

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Return an argument by its place or one of its names."""
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with other arguments; what is not given stays."""
        return self.func(*args, *self.args[len(args) :], **{**self.kwargs, **kwargs})


Guard = Callable[[Call], Any]


def is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def eps_of(tensor: Any, table: dict[Any, float] = EPS) -> float:
    return table.get(tensor.dtype, table[torch.float32])


def away_from_zero(tensor: Any, eps: float | None = None) -> Any:
    """Return the tensor with its elements at least `eps` from 0, signs kept."""
    if not is_floating(tensor):
        return torch.where(tensor == 0, torch.ones_like(tensor), tensor)
    small = eps_of(tensor) if eps is None else eps
    limit = torch.full_like(tensor, small)
    return torch.where(tensor.abs() < small, torch.where(tensor < 0, -limit, limit), tensor)


_PLAIN = {
    "true_divide": "div", "divide": "div", "__truediv__": "div", "__div__": "div", "__rtruediv__": "rdiv",
    "__rdiv__": "rdiv", "__pow__": "pow", "float_power": "pow", "__rpow__": "rpow", "arccos": "acos",
    "arcsin": "asin", "arctanh": "atanh", "arccosh": "acosh", "arctan2": "atan2", "special_logit": "logit",
    "linalg_norm": "norm", "linalg_vector_norm": "norm", "vector_norm": "norm", "matrix_norm": "norm",
    "linalg_matrix_norm": "norm", "special_xlogy": "xlogy", "special_erfinv": "erfinv", "multiply": "mul",
    "__mul__": "mul", "__rmul__": "mul", "special_softmax": "softmax", "special_log_softmax": "log_softmax",
    "special_logsumexp": "logsumexp", "__itruediv__": "div_", "__ipow__": "pow_", "__imul__": "mul_",
    "__rsub__": "rsub", "__sub__": "sub", "subtract": "sub", "__add__": "add", "__radd__": "add",
    "special_exp2": "exp2", "special_expm1": "expm1", "special_log1p": "log1p", "negative": "neg", "__neg__": "neg",
}  # fmt: skip


def plain_name(func: Any) -> tuple[str, bool]:
    """Return a function's plain name, and whether it works in place."""
    name = str(getattr(func, "__name__", ""))
    name = _PLAIN.get(name, name)
    if name.endswith("_") and not name.endswith("__"):
        return _PLAIN.get(name[:-1], name[:-1]), True
    return name, False
