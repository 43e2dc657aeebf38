"""`whynan.mindspore.Watch` in a program that runs by itself, in both modes."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops
from mindspore.dataset import NumpySlicesDataset
from mindspore.train import Model

import whynan.mindspore
from whynan import NonFiniteError


class Root(nn.Cell):
    def __init__(self):
        super().__init__()
        self.inner = nn.Dense(3, 4, has_bias=False)
        self.outer = nn.Dense(4, 1)

    def construct(self, x):
        h = self.inner(x)
        return self.outer(ops.tanh(h)) + ops.sqrt((h * h).sum(axis=1, keepdims=True))


def parts():
    x = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    y = np.abs(x).sum(axis=1, keepdims=True)
    x[17] = 0
    net = Root()
    optimizer = nn.Momentum(net.trainable_params(), 0.01, 0.9)
    dataset = NumpySlicesDataset((x, y), ["x", "y"], shuffle=True).batch(4)
    return net, Model(net, nn.MSELoss(), optimizer), dataset


@pytest.fixture(params=[ms.PYNATIVE_MODE, ms.GRAPH_MODE], ids=["pynative", "graph"])
def mode(request):
    before = ms.get_context("mode")
    ms.set_context(mode=request.param)
    ms.set_seed(3)
    yield request.param
    ms.set_context(mode=before)


def finite(net):
    return all(np.isfinite(p.asnumpy()).all() for p in net.get_parameters())


def test_stop_raises_with_the_report(mode):
    watch = whynan.mindspore.Watch(prove=False)
    net, model, dataset = parts()
    with pytest.raises(NonFiniteError) as caught:
        model.train(2, dataset, callbacks=[watch], dataset_sink_mode=False)
    incident = caught.value.report.to_json()["incidents"][0]
    assert incident["causes"][0]["slug"] == "sqrt-at-zero"
    assert incident["origin"]["function"] == "construct"
    assert [sample["index"] for sample in incident["samples"]] == [17]
    assert incident["epoch"] == 0
    assert finite(net)
    assert ms.get_context("mode") == mode


def test_recover_goes_on(mode):
    watch = whynan.mindspore.Watch(policy="recover", prove=False)
    net, model, dataset = parts()
    model.train(2, dataset, callbacks=[watch], dataset_sink_mode=False)
    assert finite(net)
    assert len(watch.report.to_json()["incidents"]) == 2


def test_model_made_before_the_callback(mode):
    net, model, dataset = parts()
    watch = whynan.mindspore.Watch(prove=False)
    with pytest.raises(NonFiniteError):
        model.train(1, dataset, callbacks=[watch], dataset_sink_mode=False)
    assert finite(net)


def test_nothing_stays_patched():
    from mindspore.ops.composite import base

    before = base._pynative_forward_run, nn.Cell.__init__, nn.Optimizer.__call__, nn.TrainOneStepCell.__call__
    watch = whynan.mindspore.Watch()
    assert base._pynative_forward_run is not before[0]
    watch.close()
    after = base._pynative_forward_run, nn.Cell.__init__, nn.Optimizer.__call__, nn.TrainOneStepCell.__call__
    assert after == before
