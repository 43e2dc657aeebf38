"""Operations by the names that people know."""

import pytest

from whynan.adapters.torch.opfacts import forward_name, plain_name
from whynan.trace import OpRecord


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("SqrtBackward0", "sqrt"),
        ("NativeBatchNormBackward0", "native_batch_norm"),
        ("torch::autograd::AddmmBackward0", "addmm"),
        ("LinalgVectorNormBackward0", "linalg_vector_norm"),
    ],
)
def test_forward_name(node, name):
    assert forward_name(node) == name


@pytest.mark.parametrize(
    ("op", "node", "custom", "name"),
    [
        ("_softmax", None, None, "softmax"),
        ("_foreach_addcdiv_", None, None, "addcdiv"),
        ("_fused_adam_", None, None, "fused_adam"),
        ("native_layer_norm", None, None, "layer_norm"),
        ("log_", None, None, "log"),
        ("div", "SqrtBackward0", None, "sqrt"),
        ("div", "MineBackward", "Mine", "div"),
        ("__and__", None, None, "__and__"),
    ],
)
def test_plain_name(op, node, custom, name):
    record = OpRecord(1, op, op, "forward", (), "nan", node=node, custom=custom)
    assert plain_name(record) == name
