"""Origins in the backward pass: the slope is infinite, or 0 * inf, where the value itself is finite."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .harness import Case, Cases, check, find, leaf, watch

INF = math.inf
cases = Cases()


@cases("sqrt", "backward", elements=[(1,)], kind="inf")
def sqrt_at_zero():
    x = leaf([4.0, 0.0])
    return x.sqrt().sum()  # origin


@cases("sqrt", "backward", elements=[(0,)])
def norm_by_hand_of_a_zero_vector():
    x = leaf([[0.0, 0.0], [3.0, 4.0]])
    return x.pow(2).sum(1).sqrt().sum()  # origin


@cases("sqrt", "backward", elements=[()])
def distance_of_a_point_to_itself():
    x = leaf([1.0, 2.0])
    d = (x - x.detach()).square().sum()
    return d.sqrt()  # origin


@cases("pow", "backward", elements=[(1,)])
def square_root_as_a_power():
    x = leaf([1.0, 0.0])
    return (x**0.5).sum()  # origin


@cases("pow", "backward", kind="nan")
def slope_of_the_exponent_at_a_negative_base():
    x, p = torch.tensor([-2.0, 1.0]), leaf([2.0, 2.0])
    return (x**p).sum()  # origin


@cases("sqrt", "backward")
def standard_deviation_by_hand():
    x = leaf([2.0, 2.0])
    return x.var().sqrt()  # origin


@cases("acos", "backward", elements=[(1,)])
def acos_at_one():
    x = leaf([0.5, 1.0])
    return x.acos().sum()  # origin


@cases("asin", "backward", elements=[(0,)])
def asin_at_minus_one():
    x = leaf([-1.0, 0.5])
    return x.asin().sum()  # origin


@cases("sqrt", "backward", elements=[(0,)])
def where_trap_sqrt():
    x = leaf([0.0, 4.0])
    return torch.where(x > 0, x.sqrt(), torch.zeros(2)).sum()  # origin


@cases("log", "backward", elements=[(0,)])
def where_trap_log():
    x = leaf([0.0, 1.0])
    return torch.where(x > 0, x.log(), x).sum()  # origin


@cases("div", "backward", elements=[(0,)])
def where_trap_div():
    x, y = leaf([1.0, 1.0]), leaf([0.0, 2.0])
    return torch.where(y > 0, x / y, x).sum()  # origin


@cases("exp", elements=[(1,)])
def where_trap_exp():
    x = leaf([0.0, 200.0])
    return torch.where(x < 20, x.exp(), x).sum()  # origin


@cases("sqrt", "backward", elements=[(0,)])
def mask_by_multiplication():
    x = leaf([0.0, 4.0])
    return (x.sqrt() * torch.tensor([0.0, 1.0])).sum()  # origin


@cases("sqrt", "backward")
def index_selects_after_sqrt():
    x = leaf([0.0, 4.0])
    return x.sqrt()[1:].sum()  # origin


@cases("pow", "backward", elements=[(0,)])
def root_of_a_probability():
    p = leaf([0.0, 0.5]) * 1
    return F.binary_cross_entropy(p.pow(0.5), torch.tensor([1.0, 0.0]))  # origin


@cases("reciprocal", "backward", elements=[(0,)])
def gradient_of_a_tiny_denominator():
    x = leaf([1e-30])
    return (1e-20 / x * 1e-5).sum()  # origin


@cases("layer_norm")
def layer_norm_without_eps():
    x = leaf(torch.ones(2, 4))
    return F.layer_norm(x, (4,), eps=0.0).sum()  # origin


@cases("group_norm")
def group_norm_without_eps():
    x = leaf(torch.ones(2, 4, 3))
    return F.group_norm(x, 2, eps=0.0).sum()  # origin


@cases("batch_norm")
def batch_norm_tiny_variance():
    x = leaf(torch.ones(4, 2))
    return F.batch_norm(x, None, None, training=True, eps=1e-80).sum()  # origin


@cases("batch_norm")
def instance_norm_without_eps():
    x = leaf(torch.ones(2, 2, 3))
    return F.instance_norm(x, eps=1e-80).sum()  # origin


@cases("batch_norm")
def batch_norm_evaluated_without_variance():
    x = leaf(torch.ones(4, 2))
    return F.batch_norm(x, torch.zeros(2), torch.zeros(2), eps=0.0).sum()  # origin


class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp_min(0).sqrt()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 0.5 * x.rsqrt()  # a custom backward


class BadForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 1 / x  # a custom forward

    @staticmethod
    def backward(ctx, grad):
        return grad


class Fine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@cases("sqrt", "backward", elements=[(1,)])
def custom_function_that_is_fine():
    x = leaf([1.0, 0.0])
    return Fine.apply(Fine.apply(x).sqrt()).sum()  # origin


def _of_custom(body):
    found = find(body)
    assert found.slice is not None and found.slice.origin is not None
    return found.slice.origin


def test_custom_backward():
    record = _of_custom(lambda: BadBackward.apply(leaf([1.0, 0.0])).sum())
    assert (record.name, record.phase, record.custom) == ("rsqrt", "backward", "BadBackward")
    assert record.stack[0].function == "backward"


def test_custom_forward():
    record = _of_custom(lambda: BadForward.apply(leaf([1.0, 0.0])).sum())
    assert (record.name, record.phase, record.custom) == ("reciprocal", "forward", "BadForward")
    assert record.stack[0].function == "forward"


def test_tensor_hook():
    def hook(grad):
        return grad / (grad - grad)

    def body():
        x = leaf([1.0, 2.0])
        y = x * 3
        y.register_hook(hook)
        return y.sum()

    record = _of_custom(body)
    assert (record.name, record.phase, record.stack[0].function) == ("div", "backward", "hook")


def test_hook_on_a_leaf():
    def hook(grad):
        return torch.log(grad - 1)

    def body():
        x = leaf([1.0, 2.0])
        x.register_hook(hook)
        return x.sum()

    record = _of_custom(body)
    assert (record.name, record.phase, record.stack[0].function) == ("log", "backward", "hook")


@cases("sqrt", "backward")
def through_lstm():
    torch.manual_seed(0)
    layer = watch(torch.nn.LSTM(2, 3))
    x = leaf(torch.zeros(2, 1, 2))
    return layer(x.sqrt())[0].sum()  # origin


@cases("sqrt", "backward")
def through_gru():
    torch.manual_seed(0)
    layer = watch(torch.nn.GRU(2, 3))
    x = leaf(torch.zeros(2, 1, 2))
    return layer(x.sqrt())[0].sum()  # origin


@cases("sqrt", "backward")
def through_attention():
    torch.manual_seed(0)
    x = leaf(torch.zeros(1, 2, 3, 4))
    y = x.sqrt()  # origin
    return F.scaled_dot_product_attention(y, y, y + torch.rand(1, 2, 3, 4)).sum()


@cases("sqrt", "backward")
def through_convolution():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(1, 2, 2)
    x = leaf(torch.zeros(1, 1, 3, 3))
    return layer(x.sqrt()).pow(2).sum()  # origin


@cases("sqrt", "backward", elements=[(0, 0)])
def through_views():
    x = leaf([0.0, 1.0, 2.0, 3.0])
    y = x.view(2, 2).t()
    return y.reshape(-1)[:1].expand(3, 1).sqrt().sum()  # origin


@cases("sqrt", "backward")
def in_place():
    x = leaf([0.0, 1.0])
    y = x * 1
    y.sqrt_()  # origin
    return (y * 2).sum()


@cases("sqrt", "backward")
def in_place_on_a_slice():
    x = leaf([0.0, 1.0])
    y = x * 1
    y[:1].sqrt_()  # origin
    return y.sum()


@cases("sqrt", "backward")
def embedding():
    weight = leaf(torch.zeros(3, 2))
    y = F.embedding(torch.tensor([0, 2]), weight)
    return y.sqrt().sum()  # origin


@cases("sqrt", "backward")
def sparse_gradient():
    weight = leaf(torch.zeros(3, 2))
    y = F.embedding(torch.tensor([0, 2]), weight, sparse=True)
    return y.sqrt().sum()  # origin


@cases("sqrt", "backward")
def embedding_bag():
    weight = leaf(torch.zeros(3, 2))
    y = F.embedding_bag(torch.tensor([[0, 2]]), weight, mode="mean")
    return y.sqrt().sum()  # origin


@cases("sqrt", "backward")
def checkpointed():
    x = leaf([0.0, 1.0])

    def block(v):
        return (v * 2).sqrt()  # origin

    return checkpoint(block, x, use_reentrant=False).sum()


@cases("sqrt", "backward")
def checkpointed_reentrant():
    x = leaf([0.0, 1.0])

    def block(v):
        return (v * 2).sqrt()  # origin

    return checkpoint(block, x, use_reentrant=True).sum()


@cases("sqrt", "backward")
def autograd_grad():
    x = leaf([0.0, 1.0])
    y = x.sqrt().sum()  # origin
    return list(torch.autograd.grad(y, x))


@cases("sqrt", "backward")
def gradient_penalty():
    x, w = leaf([1.0, 2.0]), leaf([0.0, 0.0])
    (gradient,) = torch.autograd.grad((x * w).sum(), x, create_graph=True)
    norm = gradient.pow(2).sum().sqrt()  # origin
    return (norm - 1) ** 2


@cases("pow", "backward")
def second_derivative():
    x = leaf([0.0, 1.0])
    y = (x**1.5).sum()  # origin
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    return slope.sum()


@cases("sqrt", "backward")
def functional_grad():
    def loss(x):
        return x.sqrt().sum()  # origin

    return [torch.func.grad(loss)(torch.tensor([0.0, 1.0]))]


@cases("sqrt", "backward")
def functional_grad_per_sample():
    def loss(x):
        return x.sqrt().sum()  # origin

    return [torch.func.vmap(torch.func.grad(loss))(torch.tensor([[0.0], [1.0]]))]


@cases("div", "forward", elements=[(0,)])
def functional_forward_mode():
    def loss(x):
        return x.sqrt().sum()  # origin

    return [torch.func.jvp(loss, (torch.tensor([0.0, 1.0]),), (torch.ones(2),))[1]]


@cases("sqrt", "backward")
def clipped_by_an_infinite_norm():
    x, y = leaf([0.0, 1.0]), leaf([1.0])
    loss = x.sqrt().sum() + y.sum()  # origin
    loss.backward()
    torch.nn.utils.clip_grad_norm_([x, y], 1.0)
    return [x.grad, y.grad]


@cases("sqrt", "backward")
def accumulated_gradients():
    x = leaf([0.0, 1.0])
    (x * 2).sum().backward()
    x.sqrt().sum().backward()  # origin
    (x * 3).sum().backward()
    return [x.grad]


@cases("to_copy", "backward", kind="inf")
def half_gradients_overflow():
    x = leaf([1.0])
    return (x.half() * 1).float().mul(1e6).sum()  # origin


@cases("sqrt", "backward")
def in_a_module():
    class Norm(torch.nn.Module):
        def forward(self, x):
            return x.sqrt()  # origin

    return torch.nn.Sequential(torch.nn.Identity(), Norm())(leaf([0.0])).sum()


@pytest.mark.parametrize("case", cases.params)
def test_origin(case: Case) -> None:
    check(case)


def test_the_first_of_two_births_on_one_row():
    class TwoOverflows(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        def backward(ctx, grad):
            (e,) = ctx.saved_tensors
            n = e * e
            other = 4 * e * e
            return grad * (n / n + other / other)

    def body():
        x = leaf([[1.0, 1e19, 1e20]])
        weight = leaf(torch.eye(3))
        return TwoOverflows.apply(x @ weight).sum()

    record = _of_custom(body)
    assert (record.name, record.kind, record.elements) == ("mul", "inf", ((0, 2),))
