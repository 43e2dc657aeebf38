"""Origins in the forward pass: an operation outside its domain, an overflow, 0 * inf, a reduction of nothing."""

import math

import pytest
import torch
import torch.nn.functional as F

from .harness import Case, Cases, check, leaf, watch

INF = math.inf
cases = Cases()


@cases("log", elements=[(1,)], inputs=[(0.0, 2.0)], kind="-inf")
def log_of_zero():
    x = leaf([1.0, 0.0, 2.0])
    y = torch.log(x)  # origin
    return y.sum()


@cases("log", elements=[(2,)], inputs=[(0.0, 0.75)], kind="-inf")
def log_of_one_minus_p_at_one():
    p = leaf([0.25, 0.5, 1.0])
    return -torch.log(1 - p).mean()  # origin


@cases("log", elements=[(0, 1)], kind="nan", inputs=[(-1.0, 3.0)])
def log_of_negative():
    x = leaf([[1.0, -1.0], [2.0, 3.0]])
    return x.log().mean()  # origin


@cases("log", elements=[(0,)])
def log_in_place():
    x = leaf([0.0, 1.0]) * 1
    x.log_()  # origin
    return x.sum()


@cases("log", elements=[(1,)], kind="-inf", inputs=[(0.0, 1.0)])
def zero_times_log_of_zero():
    p = leaf([1.0, 0.0])
    entropy = p * torch.log(p)  # origin
    return -entropy.sum()


@cases("pow", elements=[(1,)], inputs=[(-2.0, 1.0)], kind="nan")
def pow_of_negative_base():
    x = leaf([1.0, -2.0])
    return (x**0.5).sum()  # origin


@cases("pow", elements=[(0,)], inputs=[(0.0, 1.0)], kind="inf")
def negative_power_of_zero():
    x = leaf([0.0, 1.0])
    return (x**-1.5).sum()  # origin


@cases("sqrt", elements=[(1,)], inputs=[(-1.0, 4.0)])
def sqrt_in_place_of_negative():
    x = leaf([4.0, -1.0]) * 1
    x.sqrt_()  # origin
    return x.sum()


@cases("rsqrt", elements=[(1,)], inputs=[(0.0, 4.0)])
def rsqrt_of_zero():
    x = leaf([4.0, 0.0])
    return torch.rsqrt(x).sum()  # origin


@cases("div", elements=[(1,)], inputs=[(0.0, 1.0), (0.0, 2.0)], kind="nan")
def zero_by_zero():
    x, y = leaf([1.0, 0.0]), leaf([2.0, 0.0])
    return (x / y).sum()  # origin


@cases("div", inputs=[(3.0, 3.0), (0.0, 0.0)], kind="inf")
def mean_by_hand_of_an_empty_mask():
    x = leaf([1.0, 2.0])
    mask = x > 5
    return x.sum() / mask.sum()  # origin


@cases("mean", inputs=[(None, None)], kind="nan")
def mean_of_nothing():
    x = leaf([1.0, 2.0])
    return x[x > 5].mean()  # origin


@cases("std", inputs=[(1.0, 1.0)], kind="nan")
def std_of_one_item():
    x = leaf([1.0])
    return x.std()  # origin


@cases("var", elements=[(0,)], kind="nan")
def var_of_one_row():
    x = leaf([[1.0, 2.0]])
    return x.var(dim=0).sum()  # origin


@cases("std_mean", kind="nan")
def std_mean_of_one_row():
    x = leaf([[1.0, 2.0]])
    std, mean = torch.std_mean(x, dim=0)  # origin
    return (mean / std).sum()


@cases("div", kind="nan", elements=[(0,)])
def standardised_constant():
    x = leaf([3.0, 3.0, 3.0])
    z = (x - x.mean()) / x.std()  # origin
    return z.pow(2).sum()


@cases("exp", elements=[(1,)], inputs=[(0.0, 100.0)], kind="inf")
def exp_overflow():
    x = leaf([0.0, 100.0])
    return x.exp().sum()  # origin


@cases("exp", elements=[(1,)], kind="inf")
def softmax_by_hand():
    x = leaf([0.0, 100.0])
    e = x.exp()  # origin
    return (e / e.sum()).sum()


@cases("exp", elements=[(1,)], kind="inf")
def inf_minus_inf():
    x = leaf([0.0, 100.0])
    e = x.exp()  # origin
    return (e - e.detach()).sum()


@cases("expm1", kind="inf", elements=[(0,)])
def expm1_overflow():
    return torch.expm1(leaf([90.0])).sum()  # origin


@cases("cosh", kind="inf", elements=[(0,)])
def cosh_overflow():
    return torch.cosh(leaf([90.0])).sum()  # origin


@cases("pow", kind="inf", elements=[(1,)])
def square_overflow():
    return leaf([1.0, 1e20]).square().sum()  # origin


@cases("mul", kind="inf", elements=[(0, 1)], inputs=[(1.0, 1e30), (1.0, 1e30)])
def outer_product_overflow():
    x = leaf([[1e30], [1.0]])
    y = leaf([[1.0, 1e30]])
    return (x * y).sum()  # origin


@cases("prod", kind="inf")
def prod_overflow():
    return torch.prod(leaf([1e20, 1e20]))  # origin


@cases("cumprod", kind="inf", elements=[(1,)])
def cumprod_overflow():
    return torch.cumprod(leaf([1e20, 1e20]), 0).mean()  # origin


@cases("sum", kind="inf")
def sum_overflow_in_half():
    x = leaf(torch.full((40,), 3000.0), dtype=torch.float16)
    return x.half().sum()  # origin


@cases("mm", kind="inf", elements=[(0, 0)], inputs=[(200.0, 200.0), (200.0, 200.0)])
def mm_overflow_in_half():
    x = torch.full((2, 8), 200.0, dtype=torch.float16)
    return (x @ x.t()).float().sum()  # origin


@cases("pow", kind="inf", elements=[(1,)])
def pow_overflow_in_half():
    x = leaf(torch.tensor([2.0, 300.0]))
    return x.half().pow(2).sum()  # origin


@cases("to_copy", kind="inf", elements=[(1,)], inputs=[(1.0, 1e6)])
def cast_to_half_overflows():
    x = leaf([1.0, 1e6])
    return x.half().float().sum()  # origin


@cases("mm", kind="inf")
def autocast_matmul_overflows():
    x = leaf(torch.full((2, 8), 200.0))
    with torch.autocast("cpu", torch.float16):
        y = torch.mm(x, x.t())  # origin
    return y.float().sum()


@cases("acos", elements=[(1,)], inputs=[(0.5, 1.0000001)], kind="nan")
def acos_just_outside():
    x = leaf([0.5, 1.0000001])
    return torch.acos(x).sum()  # origin


@cases("asin", elements=[(0,)], kind="nan")
def asin_outside():
    return torch.asin(leaf([-1.5])).sum()  # origin


@cases("atanh", elements=[(0,)], kind="inf")
def atanh_at_one():
    return torch.atanh(leaf([1.0])).sum()  # origin


@cases("acosh", elements=[(0,)], kind="nan")
def acosh_below_one():
    return torch.acosh(leaf([0.5])).sum()  # origin


@cases("logit", elements=[(0,)], kind="inf")
def logit_of_one():
    return torch.logit(leaf([1.0])).sum()  # origin


@cases("log1p", elements=[(1,)], kind="-inf")
def log1p_of_minus_one():
    return torch.log1p(leaf([0.0, -1.0])).sum()  # origin


@cases("lgamma", kind="inf", elements=[(0,)])
def lgamma_of_zero():
    return torch.lgamma(leaf([0.0])).sum()  # origin


@cases("fmod", kind="nan", elements=[(0,)])
def fmod_by_zero():
    return torch.fmod(leaf([1.0]), torch.zeros(1)).sum()  # origin


@cases("reciprocal", kind="inf", elements=[(1,)])
def reciprocal_of_zero():
    return (1 / leaf([2.0, 0.0])).sum()  # origin


@cases("linalg_inv_ex", kind="nan")
def inverse_of_nearly_singular():
    x = leaf([[1e-30, 0.0], [0.0, 1e-30]])
    y = torch.linalg.inv_ex(x * 1e-15)[0]  # origin
    return y.sum()


@cases("linalg_solve_ex", elements=[(0, 0)])
def solve_singular():
    x = leaf([[0.0, 0.0], [0.0, 1.0]])
    return torch.linalg.solve_ex(x, torch.ones(2, 1))[0].sum()  # origin


# A mask's -inf is meant; where it covers a whole row, the operation that can't do with that is the origin.


@cases("softmax", elements=[(1, 0)], intended=True, kind="nan")
def softmax_of_a_row_filled_with_minus_inf():
    scores = leaf(torch.ones(2, 3))
    mask = torch.tensor([[True, False, False], [True, True, True]])
    attention = scores.masked_fill(mask, -INF).softmax(-1)  # origin
    return attention.sum()


@cases("softmax", elements=[(1, 0)], intended=True)
def softmax_of_a_row_with_an_additive_mask():
    scores = leaf(torch.ones(2, 3))
    mask = torch.zeros(2, 3)
    mask[1] = -INF
    attention = torch.softmax(scores + mask, -1)  # origin
    return attention.sum()


@cases("softmax", elements=[(1, 0)], intended=True)
def softmax_of_a_row_with_a_constant_mask():
    scores = leaf(torch.ones(2, 2))
    mask = torch.tensor([[0.0, -INF], [-INF, -INF]])
    return (scores + mask).softmax(dim=1).sum()  # origin


@cases("softmax", elements=[(1, 0)], intended=True)
def softmax_of_a_row_with_where():
    scores = leaf(torch.ones(2, 3))
    keep = torch.tensor([[True, False, False], [False, False, False]])
    attention = torch.where(keep, scores, torch.tensor(-INF))
    attention = attention.softmax(-1)  # origin
    return attention.sum()


@cases("softmax", intended=True)
def multihead_attention_with_all_padding():
    torch.manual_seed(0)
    layer = watch(torch.nn.MultiheadAttention(4, 2, batch_first=True))
    x = leaf(torch.randn(2, 3, 4))
    padding = torch.tensor([[False, False, True], [True, True, True]])
    return layer(x, x, x, key_padding_mask=padding)[0].sum()  # origin


@cases("sub", intended=True, elements=[(1,)])
def logsumexp_of_masked_row():
    x = leaf(torch.ones(2, 3))
    mask = torch.tensor([[False] * 3, [True] * 3])
    y = x.masked_fill(mask, -INF).logsumexp(1)
    return (y - y.detach()).sum()  # origin


@cases("log_softmax", intended=True)
def log_softmax_of_masked_row():
    x = leaf(torch.ones(2, 3))
    mask = torch.tensor([[False] * 3, [True] * 3])
    return F.log_softmax(x.masked_fill(mask, -INF), 1).sum()  # origin


@cases("sub", intended=True, kind="nan")
def max_of_a_masked_row_subtracted():
    x = leaf(torch.ones(2, 3)).masked_fill(torch.tensor([[False] * 3, [True] * 3]), -INF)
    x = x - x.amax(1, keepdim=True)  # origin
    return x.exp().sum()


@cases("mul", intended=True, kind="nan")
def mask_multiplied_by_zero():
    x = leaf(torch.zeros(3))
    mask = torch.full((3,), -INF)
    return (x * mask).sum()  # origin


# Losses ---------------------------------------------------------------------------------------------------------------


@cases("nll_loss", kind="nan")
def cross_entropy_with_everything_ignored():
    logits = leaf(torch.ones(2, 3))
    target = torch.full((2,), -100)
    return F.cross_entropy(logits, target)  # origin


@cases("ctc_loss", kind="inf")
def ctc_target_longer_than_input():
    torch.manual_seed(0)
    logits = leaf(torch.randn(2, 1, 4))
    return F.ctc_loss(  # origin
        logits.log_softmax(2),
        torch.tensor([[1, 2, 3]]),
        torch.tensor([2]),
        torch.tensor([3]),
        reduction="sum",
    )


@cases("log", elements=[(1,)])
def kl_divergence_of_a_zero_prediction():
    p = leaf([1.0, 0.0])
    q = torch.tensor([0.5, 0.5])
    return F.kl_div(p.log(), q, reduction="sum")  # origin


@cases("log", elements=[(1,)])
def kl_divergence_by_hand_of_zeros():
    q = leaf([1.0, 0.0])
    p = torch.tensor([1.0, 0.0])
    return (p * (p / q.clamp_min(1e-8)).log()).sum()  # origin


@cases("log")
def poisson_nll_of_a_negative_rate():
    rate = leaf([-1.0, 2.0])
    return F.poisson_nll_loss(rate, torch.ones(2), log_input=False, eps=0)  # origin


@cases("log", elements=[(0,)])
def gaussian_nll_by_hand():
    var = leaf([0.0, 1.0])
    return (0.5 * torch.log(var) + 0.5 / (var + 1e-6)).sum()  # origin


@cases("log", kind="-inf")
def binary_cross_entropy_by_hand():
    p = torch.sigmoid(leaf([200.0, 0.0]))
    y = torch.tensor([0.0, 1.0])
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()  # origin


# Views, writes in place, ops with several tensors -------------------------------------------------------


@cases("log", elements=[(0,)])
def through_views_and_reshapes():
    x = leaf([0.0, 1.0, 2.0, 3.0])
    y = x.log()  # origin
    return y.view(2, 2).t().expand(3, 2, 2).reshape(-1)[0:4].unsqueeze(0).sum()


@cases("log", elements=[(0,)])
def written_by_a_mask():
    x = leaf([0.0, 1.0])
    y = torch.zeros(4)
    y[torch.tensor([True, False, True, False])] = x.log()  # origin
    return y.mean()


@cases("log", elements=[(1,)])
def written_into_a_slice():
    x = leaf([1.0, 0.0])
    y = torch.zeros(2, 2)
    y[1] = x.log()  # origin
    return y.flatten().sum()


@cases("log", elements=[(1,)])
def index_put_accumulated():
    x = leaf([1.0, 0.0])
    y = torch.zeros(3)
    y = y.index_put((torch.tensor([2, 1]),), x.log(), accumulate=True)  # origin
    return y.sum()


@cases("log", elements=[(1,)])
def kept_by_relu():
    x = leaf([1.0, -1.0]) * 1
    y = x.log()  # origin
    y = y.relu_()
    return y.sum()


@cases("log", elements=[(2,)])
def joined_and_split():
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0, 0.0])
    parts = torch.cat([x, y.log()])  # origin
    first, last = parts.split([2, 3])
    return first.sum() + torch.stack([last, last]).mean()


@cases("log", elements=[(1,)])
def through_scatter():
    x = leaf([1.0, 0.0])
    return torch.zeros(3).scatter(0, torch.tensor([0, 2]), x.log()).sum()  # origin


@cases("log", elements=[(1,)])
def through_gather():
    x = leaf([1.0, 0.0])
    return x.log().gather(0, torch.tensor([1, 1])).sum()  # origin


@cases("log", elements=[(1,)])
def through_index_add():
    x = leaf([1.0, 0.0])
    return torch.zeros(3).index_add(0, torch.tensor([0, 2]), x.log()).sum()  # origin


@cases("log", elements=[(1, 0)])
def through_einsum():
    x = leaf([[1.0, 2.0], [0.0, 3.0]])
    return torch.einsum("ij,kj->ik", x.log(), torch.eye(2)).sum()  # origin


@cases("log", elements=[(1,)])
def through_cummax():
    x = leaf([1.0, -1.0])
    return x.log().cummax(0)[0].sum()  # origin


@cases("log", elements=[(1,)])
def through_sort_and_topk():
    x = leaf([1.0, -1.0, 2.0])
    return x.log().sort()[0].topk(2)[0].sum()  # origin


@cases("log")
def through_embedding_bag():
    weight = leaf(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    return F.embedding_bag(torch.tensor([[0, 1]]), weight.log(), mode="sum").sum()  # origin


@cases("log", elements=[(1,)])
def assigned_element_by_element():
    x = leaf([1.0, 0.0])
    y = torch.empty(2)
    for k in range(2):
        y[k] = x[k]
    return torch.log(y).sum()  # origin


@cases("log", elements=[(1,)])
def an_innocent_nan_stands_beside():
    x = leaf([1.0, 0.0])
    unused = torch.tensor([-1.0]).sqrt()
    both = torch.cat([unused, x.log()])  # origin
    return both[1:].sum()


@cases("div", elements=[(1,)])
def a_nan_that_was_overwritten_is_innocent():
    x = leaf([1.0, 0.0])
    y = torch.log(x - 1)
    y = torch.nan_to_num(y, 0.0, 0.0, 0.0)
    return (x / x + y).sum()  # origin


@cases("log", elements=[(1,)])
def memory_used_again():
    x = leaf([1.0, 0.0])
    for _ in range(50):
        torch.full((2,), -1.0).sqrt()
    y = x.log()  # origin
    return y.sum()


@cases("fft_c2c", kind="nan")
def fft_overflow():
    x = leaf(torch.full((64,), 1e38))
    return torch.fft.fft(x + 0j).abs().sum()  # origin


@cases("log", kind="-inf", elements=[(1,)])
def complex_log_of_zero():
    z = torch.complex(leaf([1.0, 0.0]), torch.zeros(2))
    return z.log().abs().sum()  # origin


@cases("exp", elements=[(1,)])
def vmapped():
    x = leaf([1.0, 200.0])
    return torch.func.vmap(lambda v: v.exp() + 1)(x).sum()  # origin


@cases("exp", elements=[(1,)])
def in_a_module():
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Softplus())
    return torch.exp(model(leaf([1.0, 200.0]))).sum()  # origin


@cases("log", elements=[(1,)])
def columns_of_one_buffer():
    x, y = leaf([1.0, 0.0]), leaf([1.0, -1.0])
    both = torch.zeros(2, 2)
    both[:, 0] = x.log()  # origin
    both[:, 1] = y.sqrt()
    return both[:, 0].sum()


@cases("sqrt", elements=[(1,)])
def a_birth_beside_an_innocent_nan():
    x = torch.tensor([float("nan"), -1.0, 1.0])
    y = x.sqrt()  # origin
    return y[1:].sum() * leaf(1.0)


@cases("sqrt", elements=[(0,)])
def rows_of_different_guilt():
    padding, row = torch.tensor([-1.0, 1.0]).log(), leaf([-1.0, 4.0])
    table = torch.stack([padding, row.sqrt(), row])  # origin
    table = table * 2 + 1
    return torch.where(torch.tensor([[False], [True], [True]]), table, 0.0).sum()


@cases("log", elements=[(1,)])
def an_infinity_beside_an_innocent_nan():
    x = leaf([1.0, 0.0])
    y = torch.cat([torch.tensor([-1.0]).sqrt(), x.log()]) * 2  # origin
    return y[2:].sum()


@cases("log", elements=[(0,)])
def in_a_list_of_tensors():
    tensors = [leaf([1.0]), leaf([0.0, 1.0]), leaf([2.0])]
    return sum(y.sum() for y in torch._foreach_log(tensors))  # origin


@pytest.mark.parametrize("case", cases.params)
def test_origin(case: Case) -> None:
    check(case)
