"""Cross-entropies as autograd functions: few kernels, exact also where the loss is small.

The loss of a confident prediction is a small number, which the usual logsumexp(x) - x[target] loses in rounding. What they compute
stays the formula's; `tests/parts` holds them against it.
"""

from typing import Any

import torch

Tensor = torch.Tensor


class SoftmaxCrossEntropy(torch.autograd.Function):
    """(losses, probabilities) of logits (N, C, ...) and class indices (N, ...), whose class dimension is 1.

    The probabilities are an output so that they take part in second derivatives.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        at = index.unsqueeze(1)
        probabilities = torch.softmax(logits, 1)
        # logsumexp(x) - x[target]; the logarithm is of a number between 1 / C and 1.
        loss = logits.amax(1).sub_(logits.gather(1, at).squeeze(1)).sub_(probabilities.amax(1).log_())
        own = probabilities.gather(1, at)
        # -log p as -log(1 - the others), where p is close to 1.
        others = probabilities.scatter_(1, at, 0.0).sum(1)
        probabilities.scatter_(1, at, own)
        loss = torch.where(others < 0.1, -torch.log1p(-others.clamp(max=0.5)), loss)
        ctx.save_for_backward(probabilities, at)
        ctx.set_materialize_grads(False)
        return loss, probabilities

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor | None, by_probabilities: Tensor | None) -> tuple[Tensor | None, None]:
        probabilities, at = ctx.saved_tensors
        gradient = None
        if by_loss is not None:
            scale = by_loss.unsqueeze(1)
            gradient = (probabilities * scale).scatter_add(1, at, -scale) if torch.is_grad_enabled() else (
                torch.mul(probabilities, scale).scatter_add_(1, at, scale.neg()))  # fmt: skip
        if by_probabilities is not None:
            inner = (by_probabilities * probabilities).sum(1, keepdim=True)
            other = probabilities * (by_probabilities - inner)
            gradient = other if gradient is None else gradient + other
        return gradient, None


class BinaryCrossEntropy(torch.autograd.Function):
    """Losses of logits x and targets y of one shape and dtype: max(x, 0) - x y + log1p(exp(-|x|))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        tail = torch.nn.functional.softplus(x.abs().neg_())
        return x.clamp(min=0).addcmul_(x, y, value=-1).add_(tail)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        by_x = by_y = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled():
                by_x = (torch.sigmoid(x) - y) * gradient
            else:
                by_x = torch.sigmoid(x).sub_(y).mul_(gradient)
        if ctx.needs_input_grad[1]:
            by_y = -x * gradient
        return by_x, by_y


class FocalLoss(torch.autograd.Function):
    """BCE(x, y) (1 - p_t)² of logits x and targets y of one shape and dtype, |x| not so large that a product overflows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(x)
        miss = torch.lerp(p, torch.sigmoid(x.neg()), y)
        tail = torch.nn.functional.softplus(x.abs().neg_())
        entropy = x.clamp(min=0).addcmul_(x, y, value=-1).add_(tail)
        ctx.save_for_backward(x, y, p, miss, entropy)
        return entropy * miss * miss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        x, y, p, miss, entropy = ctx.saved_tensors
        if torch.is_grad_enabled():
            # What was saved is no function of x to autograd: compute it again for a second derivative.
            p = torch.sigmoid(x)
            miss = torch.lerp(p, torch.sigmoid(-x), y)
            entropy = torch.nn.functional.softplus(-x.abs()) + x.clamp(min=0) - x * y
        # miss (miss (p - y) + 2 entropy p (1 - p) (1 - 2 y))
        inner = entropy * (p - p * p) * (2 - 4 * y)
        return torch.addcmul(inner, miss, p - y) * miss * gradient, None
