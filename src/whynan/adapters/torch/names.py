"""Plain names of operations: `aten::_softmax` is softmax, `SqrtBackward0` is the derivative of sqrt."""

import re

from whynan.trace.graph import OpRecord

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_PLAIN = {
    "nll_loss_forward": "nll_loss",
    "nll_loss2d_forward": "nll_loss",
    "native_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "linalg_vector_norm": "linalg_vector_norm",
    "rsub": "sub",
}


def plain_name(record: OpRecord) -> str:
    """Return the name a reader knows: of the forward operation, for a derivative of the framework's own."""
    if record.node is not None and record.custom is None and "Backward" in record.node:
        return _plain(forward_name(record.node))
    return _plain(record.name)


def forward_name(node: str) -> str:
    """Return the operation that a node is the derivative of: native_batch_norm for "NativeBatchNormBackward0"."""
    stem = re.sub(r"Backward\d*$", "", node.rpartition("::")[2])
    return _CAMEL.sub("_", stem).lower()


def _plain(name: str) -> str:
    name = name.removeprefix("_foreach").strip("_") if not name.startswith("__") else name
    return _PLAIN.get(name, name)
