"""Origins in an optimizer's step, for each way in which optimizers are written: tensor by tensor, lists, fused."""

import pytest
import torch

from whynan.adapters.torch.opfacts import plain_name

from .harness import Found, find, leaf

HOW = [{"foreach": False}, {"foreach": True}, {"fused": True}]


def step(kind, gradient, before=None, **options) -> Found:
    """Make one step with two parameters, the second of which has the given gradient, and follow its values."""

    def body():
        parameters = [leaf([1.0, 1.0]), leaf(torch.ones(len(gradient)))]
        optimizer = kind(parameters, **options)
        parameters[0].grad = torch.ones(2)
        parameters[1].grad = torch.tensor(gradient)
        if before is not None:
            before(parameters, optimizer)
        optimizer.step()
        return [parameter.detach() for parameter in parameters]

    return find(body, lambda tracer: setattr(tracer, "is_in_optimizer", lambda: True))


@pytest.mark.parametrize("how", HOW, ids=["single", "foreach", "fused"])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_without_eps(kind, how):
    found = step(kind, [1.0, 0.0, 1.0], eps=0.0, **how)
    record = found.slice.origin
    assert record is not None and record.phase == "optimizer"
    assert record.elements[0] == (1,)
    assert plain_name(record) in ("addcdiv", "fused_adam", "fused_adamw")
    assert {summary.shape for summary in record.inputs} <= {(3,), ()}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.RMSprop, {"eps": 0.0}),
        (torch.optim.Adagrad, {"eps": 0.0}),
        (torch.optim.NAdam, {"eps": 0.0}),
        (torch.optim.Adadelta, {"eps": 0.0}),
        (torch.optim.Adamax, {"eps": 0.0}),
    ],
)
@pytest.mark.parametrize("foreach", [False, True])
def test_others_without_eps(kind, options, foreach):
    found = step(kind, [1.0, 0.0, 1.0], foreach=foreach, **options)
    record = found.slice.origin
    assert record is not None and record.phase == "optimizer"
    assert record.elements[0] == (1,)
    assert plain_name(record) in ("addcdiv", "div")


@pytest.mark.parametrize("how", HOW, ids=["single", "foreach", "fused"])
def test_sgd_overflows(how):
    record = step(torch.optim.SGD, [1.0, 1e30], lr=1e10, **how).slice.origin
    assert record is not None and (record.phase, record.kind, record.elements) == ("optimizer", "-inf", ((1,),))
    assert plain_name(record) in ("add", "fused_sgd")


@pytest.mark.parametrize("how", HOW, ids=["single", "foreach", "fused"])
def test_a_gradient_that_was_bad_before_the_step(how):
    found = step(torch.optim.SGD, [1.0, float("nan")], lr=0.1, **how)
    assert found.slice.origin is not None or found.slice.leaf is not None
    blamed = found.slice.origin
    assert blamed is None or plain_name(blamed) == "lift_fresh", "the step itself is innocent"


@pytest.mark.parametrize("how", HOW, ids=["single", "foreach", "fused"])
def test_the_origin_is_in_the_backward_pass(how):
    def body():
        x = leaf([0.0, 1.0])
        optimizer = torch.optim.Adam([x, leaf([1.0])], **how)
        x.sqrt().sum().backward()
        optimizer.step()
        return [x.detach()]

    record = find(body).slice.origin
    assert record is not None and (plain_name(record), record.phase) == ("sqrt", "backward")


@pytest.mark.parametrize("foreach", [False, True])
def test_clipping_by_an_infinite_norm_is_no_origin(foreach):
    def body():
        x, y = leaf([0.0, 1.0]), leaf([1.0])
        (x.sqrt().sum() + y.sum()).backward()
        torch.nn.utils.clip_grad_norm_([x, y], 1.0, foreach=foreach)
        return [x.grad, y.grad]

    record = find(body).slice.origin
    assert record is not None and (plain_name(record), record.phase) == ("sqrt", "backward")


def test_clipping_a_norm_that_overflows():
    def body():
        x, y = leaf([1.0, 1.0]), leaf([1.0])
        ((x * 1e38).sum() * 3 + y.sum()).backward()
        torch.nn.utils.clip_grad_norm_([x, y], 1.0, norm_type=2.0)
        return [x.grad, y.grad]

    found = find(body)
    assert not found.symptoms or plain_name(found.slice.origin) in ("linalg_vector_norm", "norm")


def test_adafactor():
    record = step(torch.optim.Adafactor, [0.0, 0.0], eps=(0.0, 0.0), foreach=False).slice.origin
    assert record is not None and record.phase == "optimizer"


def test_an_optimizer_written_by_hand():
    def body():
        weight = leaf([1.0, 1.0])
        weight.sum().backward()
        with torch.no_grad():
            weight -= weight.grad / (weight.grad - 1)
        return [weight.detach()]

    record = find(body).slice.origin
    assert record is not None and (plain_name(record), record.phase) == ("div", "forward")


def test_weight_averages():
    def body():
        weight, average = leaf([0.0, 4.0]), torch.zeros(2)
        with torch.no_grad():
            average.lerp_(weight.log(), 0.5)
        return [average]

    record = find(body).slice.origin
    assert record is not None and (plain_name(record), record.elements) == ("log", ((0,),))
