"""PyTorch for the suite: as it is used, and with the formulas alone."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import torch

from whynan.formulas import backend, elementwise, reductions
from whynan.formulas.losses import boxes, classification, overlap, regression, similarity
from whynan.torch import losses, ops
from whynan.torch.backend import XP


class TorchFramework:
    def __init__(self, ops: Any, losses: Any) -> None:
        self.ops, self.losses = ops, losses

    def array(self, x: np.ndarray) -> torch.Tensor:
        if x.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16)
        return torch.from_numpy(np.array(x))

    def hard(self, y: torch.Tensor) -> torch.Tensor:
        return (y > 0).to(y.dtype)

    def run(self, call: Callable[..., Any], arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        tensors = [self.array(x).requires_grad_() for x in arrays]
        result = call(*tensors)
        results = list(result.values()) if isinstance(result, dict) else [result]
        # Summed up wide, so that the sum itself does not overflow.
        sum(x.double().sum() for x in results).backward()
        assert all(x.grad is not None and x.grad.dtype == x.dtype for x in tensors)
        return [self.back(x.detach()) for x in results], [self.back(x.grad) for x in tensors]

    def back(self, x: torch.Tensor) -> np.ndarray:
        return x.float().numpy().astype(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def formulas_of(*modules: Any) -> Any:
    """Return the formulas with PyTorch's operations, without any kernel of PyTorch in their place."""
    found = {}
    for module in modules:
        for name, value in vars(module).items():
            if callable(value) and getattr(value, "__module__", "") == module.__name__ and not isinstance(value, type):
                found[name] = backend.bind(XP, value, dim=1) if name in CLASS_DIM else backend.bind(XP, value)
    return SimpleNamespace(**found)


CLASS_DIM = ("cross_entropy", "categorical_cross_entropy", "focal_loss", "lovasz_softmax_loss")
EAGER = TorchFramework(ops, losses)
FORMULA = TorchFramework(
    formulas_of(elementwise, reductions),
    formulas_of(boxes, classification, overlap, regression, similarity),
)
