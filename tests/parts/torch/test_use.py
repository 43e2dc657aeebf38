"""How the parts are used: argument errors, gradcheck, compiled, under vmap, with Python numbers, without frameworks."""

import subprocess
import sys

import pytest
import torch
from tests.parts.torch.framework import EAGER, FORMULA
from torch.autograd import gradcheck, gradgradcheck

from whynan.torch import losses, ops

SET = torch.linspace(-1.3, 1.7, 12, dtype=torch.float64).reshape(3, 4)
CALLS = {
    "log": lambda f, x: f.ops.log(x.abs() + 0.1),
    "sqrt": lambda f, x: f.ops.sqrt(x.abs() + 0.1),
    "exp": lambda f, x: f.ops.exp(x),
    "div": lambda f, x: f.ops.div(x, x.abs() + 1),
    "pow": lambda f, x: f.ops.pow(x.abs() + 0.5, 1.5),
    "acos": lambda f, x: f.ops.acos(torch.tanh(x)),
    "atan2": lambda f, x: f.ops.atan2(x, x + 3),
    "norm": lambda f, x: f.ops.norm(x, 1),
    "norm 3": lambda f, x: f.ops.norm(x + 4, 1, p=3.0),
    "normalize": lambda f, x: f.ops.normalize(x, 1),
    "std": lambda f, x: f.ops.std(x, 1),
    "var": lambda f, x: f.ops.var(x, 1),
    "standardize": lambda f, x: f.ops.standardize(x, 1),
    "logsumexp": lambda f, x: f.ops.logsumexp(x, 1),
    "softmax": lambda f, x: f.ops.softmax(x, 1, torch.tensor([True, True, False, True])),
    "masked mean": lambda f, x: f.ops.masked_mean(x, torch.tensor([True, True, False, True])),
    "bce": lambda f, x: f.losses.binary_cross_entropy(torch.sigmoid(x), torch.rand_like(x).round()),
    "bce logits": lambda f, x: f.losses.binary_cross_entropy_with_logits(x, (x > 0).double()),
    "cross entropy": lambda f, x: f.losses.cross_entropy(x, torch.tensor([0, -100, 3])),
    "cross entropy, smooth": lambda f, x: f.losses.cross_entropy(x, torch.tensor([0, 1, 3]), label_smoothing=0.1),
    "categorical": lambda f, x: f.losses.categorical_cross_entropy(torch.softmax(x, 1), torch.tensor([0, 1, 3])),
    "focal": lambda f, x: f.losses.focal_loss(x, (x > 0).double()),
    "focal of classes": lambda f, x: f.losses.focal_loss(x, torch.tensor([0, 1, 3])),
    "dice": lambda f, x: f.losses.dice_loss(torch.sigmoid(x), (x > 0).double()),
    "jaccard": lambda f, x: f.losses.jaccard_loss(torch.sigmoid(x), (x > 0).double()),
    "lovasz": lambda f, x: f.losses.lovasz_softmax_loss(x, torch.tensor([0, 1, 3])),
    "smooth l1": lambda f, x: f.losses.smooth_l1_loss(x, SET),
    "nll": lambda f, x: f.losses.gaussian_nll_loss(x, SET, x * 0.5),
    "kl": lambda f, x: f.losses.kl_divergence_normal(x, x * 0.1),
    "giou": lambda f, x: f.losses.giou_loss(x + torch.tensor([0.0, 0, 9, 9]), torch.tensor([[1.0, 2, 9,
    8]]).double().expand(3, 4)),
    "ciou": lambda f, x: f.losses.diou_loss(x + torch.tensor([0.0, 0, 9, 9]), torch.tensor([[1.0, 2, 9,
    8]]).double().expand(3, 4)), "info nce": lambda f, x: f.losses.info_nce_loss(x, SET, 0.5),
    "contrastive": lambda f, x: f.losses.contrastive_loss(x, SET, torch.tensor([0, 1, 0]), 3.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("framework", [EAGER, FORMULA], ids=["eager", "formula"])
def test_gradcheck(framework, name):
    torch.manual_seed(3)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    target = torch.rand(3, 4, dtype=torch.float64).round()
    call = CALLS[name] if name != "bce" else lambda f, v: f.losses.binary_cross_entropy(torch.sigmoid(v), target)
    assert gradcheck(lambda v: call(framework, v), x)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("lovasz", "smooth l1", "bce", "contrastive")])
def test_second_derivatives(name):
    torch.manual_seed(3)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda v: CALLS[name](EAGER, v), x)


@pytest.mark.parametrize(
    "name",
    [
        "div",
        "normalize",
        "cross entropy",
        "focal",
        "giou",
        "kl",
        "softmax",
        "smooth l1",
        "norm",
        "std",
        "var",
        "standardize",
        "dice",
        "contrastive",
        "info nce",
        "acos",
        "sqrt",
    ],
)
def test_compiled_is_the_same(name):
    torch.manual_seed(3)
    torch._dynamo.reset()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(lambda v: CALLS[name](EAGER, v), backend="aot_eager", fullgraph=True)
    values = []
    for function in (compiled, lambda v: CALLS[name](EAGER, v)):
        value = function(x)
        values.append((value, *torch.autograd.grad(value.sum(), x)))
    torch.testing.assert_close(*values)


CORNERS = torch.tensor([0.1, 0.1, 1.0, 1.0])
CHOICES = [
    lambda a, b: ops.norm(a, 1),
    lambda a, b: ops.normalize(a, 1),
    lambda a, b: ops.standardize(a, 1),
    lambda a, b: losses.dice_loss(a, b),
    lambda a, b: losses.kl_divergence_normal(a, b),
    lambda a, b: losses.contrastive_loss(a, b, torch.tensor([0, 1, 0])),
    lambda a, b: ops.exp(a),
    lambda a, b: ops.div(a, b, fill=2.0),
    lambda a, b: ops.pow(a, 1.7) + ops.pow(b, -0.5),
    lambda a, b: ops.atan2(a, b) + ops.asin(a),
    lambda a, b: ops.softmax(a, 1, (b < 1) & (torch.arange(3) > 0)[:, None]),
    lambda a, b: losses.smooth_l1_loss(a, -b, 0.1),
    lambda a, b: losses.binary_cross_entropy(a, b.detach().round().clamp(0, 1)),
    lambda a, b: losses.focal_loss(a, b.detach().round()),
    lambda a, b: losses.cross_entropy(a, torch.tensor([1, -100, 3])),
    lambda a, b: losses.iou_loss(a.view(6, 4) * CORNERS, b.view(6, 4) * CORNERS),
]


@pytest.mark.parametrize("index", range(len(CHOICES)))
def test_compiled_both_ways(index):
    """The plain kernels for usual numbers, the formula for the others: what the eager part gives, and finite."""
    call = CHOICES[index]
    torch._dynamo.reset()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    usual = torch.rand(2, 3, 8, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    for first, second in (usual, usual * 3e38, usual * 1e-40, torch.zeros(2, 3, 8), torch.stack([usual[0], usual[0]])):
        arrays = [first.clone().requires_grad_(), second.clone().requires_grad_()]
        found = []
        for function in (compiled, call):
            value = function(*arrays)
            weight = torch.linspace(0.5, 1.5, value.numel()).reshape(value.shape)
            slopes = torch.autograd.grad(value, arrays, weight, allow_unused=True, materialize_grads=True)
            found.append((value, slopes))
            assert value.isfinite().all() and all(slope.isfinite().all() for slope in slopes)
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_compiled_inside_transforms():
    x = torch.randn(5, 4)
    torch._dynamo.reset()
    compiled = torch.compile(lambda v: torch.vmap(ops.norm)(v), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), torch.linalg.vector_norm(x, dim=1))


@pytest.mark.parametrize("name", ["norm", "std", "div", "pow", "focal", "kl", "info nce"])
def test_compiled_gradients_of_samples(name):
    """vmap(grad) under torch.compile, which knows no autograd functions there."""
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slope = torch.func.grad(lambda v: CALLS[name](EAGER, v).sum())
    torch._dynamo.reset()
    compiled = torch.compile(lambda v: torch.vmap(slope)(v), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), torch.stack([slope(v) for v in x]))


def test_vmap_and_functional_gradients():
    x = torch.randn(5, 4)
    rows = torch.vmap(lambda row: ops.norm(row))(x)
    torch.testing.assert_close(rows, torch.linalg.vector_norm(x, dim=1))
    torch.testing.assert_close(torch.vmap(torch.func.grad(lambda row: ops.norm(row)))(x), x / rows[:, None])
    labels = torch.tensor([0, 1, 2, 3, 0])
    each = torch.vmap(lambda row, y: losses.cross_entropy(row, y))(x, labels)
    torch.testing.assert_close(each, losses.cross_entropy(x, labels, reduction="none"))
    torch.testing.assert_close(torch.vmap(lambda v: ops.div(v, v))(x), torch.ones(5, 4))


TRANSFORMED = {
    "exp": ops.exp,
    "acos": ops.acos,
    "atan2": lambda a: ops.atan2(a, a.detach() + 0.5),
    "pow": lambda a: ops.pow(a, 1.5),
    "norm": lambda a: ops.norm(a, -1),
    "binary cross-entropy": lambda a: losses.binary_cross_entropy(a, torch.full_like(a, 0.5)),
    "with logits": lambda a: losses.binary_cross_entropy_with_logits(a, torch.full_like(a, 0.5)),
    "cross-entropy": lambda a: losses.cross_entropy(a, torch.tensor([0, 1, 2])),
    "focal": lambda a: losses.focal_loss(a, (a > 0.5).to(a.dtype)),
    "dice": lambda a: losses.dice_loss(a, torch.full_like(a, 0.5)),
    "info nce": lambda a: losses.info_nce_loss(a, a.detach() + 0.5),
}


@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("size", [1.0, 1e30])
def test_forward_mode_hessians_and_gradients_of_samples(name, size):
    x = torch.linspace(0.1, 0.9, 12, dtype=torch.float64).reshape(3, 4) * size

    def total(v):
        return TRANSFORMED[name](v).sum()

    slope = torch.func.grad(total)(x)
    assert slope.isfinite().all()
    ahead = torch.func.jvp(total, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(ahead, slope.sum(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.vmap(torch.func.grad(total))(torch.stack([x, x])), torch.stack([slope, slope]))
    assert torch.func.hessian(total)(x).shape == (3, 4, 3, 4)


def test_python_numbers_and_integers():
    assert ops.div(1.0, torch.tensor([0.0, 2.0])).tolist() == [0.0, 0.5]
    assert ops.div(torch.tensor([4.0]), 0.0).tolist() == [0.0]
    assert ops.pow(torch.tensor([4.0]), 0.5).tolist() == [2.0]
    assert ops.pow(2.0, torch.tensor([3.0])).tolist() == [8.0]
    assert ops.sqrt(torch.tensor([4, 9])).tolist() == [2.0, 3.0]
    assert ops.norm(torch.tensor(-3.0)) == 3
    wide = torch.randn(6, 8)[::2, ::3]
    torch.testing.assert_close(
        ops.standardize(wide, 1), (wide - wide.mean(1, keepdim=True)) / wide.std(1, keepdim=True)
    )
    assert losses.binary_cross_entropy_with_logits(torch.zeros(2), torch.tensor([0, 1])).isfinite()


ERRORS = [
    (lambda: losses.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 7]), validate=True),
     r"target: must be a class index from 0 to 2 or ignore_index=-100, is 7 at index 1"),
    (lambda: losses.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 7])),
     r"target: must be a class index from 0 to 2 or ignore_index=-100, is 7 at index 1"),
    (lambda: losses.cross_entropy(torch.zeros(2, 3), torch.zeros(4, dtype=torch.long)), r"target has shape \(4,\)"),
    (lambda: losses.cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), torch.ones(4)),
     r"weight has shape \(4,\): must be \(3,\)"),
    (lambda: losses.binary_cross_entropy(torch.tensor([0.5, 1.25]), torch.zeros(2), validate=True),
     r"p: must be in \[0, 1\], is 1.25 at index 1"),
    (lambda: losses.binary_cross_entropy(torch.zeros(2), torch.zeros(3)), r"p has shape \(2,\) and y has shape \(3,\)"),
    (lambda: losses.smooth_l1_loss(torch.tensor([[1.0, float("nan")]]), torch.zeros(1, 2), validate=True),
     r"pred: must be finite, is nan at index \(0, 1\)"),
    (lambda: losses.smooth_l1_loss(torch.zeros(2), torch.zeros(2), reduction="avg"),
     r'reduction: \'avg\' is none of "mean"'),
    (lambda: losses.smooth_l1_loss(torch.zeros(2), torch.zeros(2), beta=-1.0), r"beta: .* is -1"),
    (lambda: losses.giou_loss(torch.zeros(2, 3), torch.zeros(2, 3)), r"boxes: boxes are \(..., 4\).* \(2, 3\)"),
    (lambda: losses.giou_loss(torch.tensor([[3.0, 0, 1, 1]]), torch.zeros(1, 4), validate=True),
     r"boxes: must have x1 <= x2 and y1 <= y2, is 1.0 at index \(0, 2\)"),
    (lambda: losses.info_nce_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0), r"temperature: .* is 0"),
    (lambda: losses.ctc_loss(torch.zeros(5, 2, 3), torch.zeros(2, 2).long(), torch.tensor([5, 6]), torch.tensor([1, 1]),
                             validate=True), r"input_lengths: must be from 0 to 5, is 6 at index 1"),
    (lambda: losses.rpn_loss(torch.zeros(3), torch.zeros(3, 4), torch.tensor([0, 1, 2]), torch.zeros(3, 4),
    validate=True),
     r"labels: must be -1, 0 or 1, is 2 at index 2"),
    (lambda: ops.norm(torch.zeros(2), 5), r"dim: 5 is no axis|Dimension out of range"),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(ERRORS)))
def test_errors_name_argument_value_and_index(index):
    call, message = ERRORS[index]
    with pytest.raises((ValueError, IndexError), match=message):
        call()


def test_whynan_imports_no_framework():
    code = (
        "import sys, whynan, whynan.formulas.losses; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
