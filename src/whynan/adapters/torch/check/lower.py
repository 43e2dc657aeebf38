"""From an aten call to a node of the framework-free graph: its plain name, its operands, its attributes."""

from typing import Any

import torch

BINARY = frozenset(
    [
        "add",
        "add_",
        "sub",
        "sub_",
        "rsub",
        "mul",
        "mul_",
        "div",
        "div_",
        "pow",
        "pow_",
        "maximum",
        "minimum",
        "fmod",
        "remainder",
        "floor_divide",
        "gt",
        "lt",
        "ge",
        "le",
        "eq",
        "ne",
        "logical_and",
        "logical_or",
        "bitwise_and",
        "bitwise_or",
        "where",
        "masked_fill",
        "masked_fill_",
        "addcmul",
        "addcdiv",
        "atan2",
        "xlogy",
        "lerp",
        "fill",
        "fill_",
        "float_power",
        "hypot",
        "logaddexp",
    ]
)
"""Operations whose plain numbers are operands: they become constant nodes."""
_NAMES = {
    "__and__": "bitwise_and",
    "__or__": "bitwise_or",
    "true_divide": "div",
    "divide": "div",
    "log_softmax": "_log_softmax",
    "softmax": "_softmax",
    "gt_": "gt",
    "lt_": "lt",
    "_safe_softmax": "_safe_softmax",
    "native_group_norm": "native_group_norm",
}
_OVERLOADS = {
    ("max", "dim"): "max.dim",
    ("min", "dim"): "min.dim",
    ("max", "other"): "maximum",
    ("min", "other"): "minimum",
    ("median", "dim"): "median.dim",
}
CONSTANT = frozenset(
    [
        "zeros",
        "ones",
        "full",
        "zeros_like",
        "ones_like",
        "full_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "arange",
        "linspace",
        "eye",
        "scalar_tensor",
        "zero_",
        "tril_indices",
        "triu_indices",
        "hann_window",
        "logspace",
    ]
)
RANDOM = frozenset(
    [
        "rand",
        "randn",
        "rand_like",
        "randn_like",
        "normal",
        "normal_",
        "uniform_",
        "bernoulli",
        "bernoulli_",
        "randint",
        "randperm",
        "multinomial",
        "random_",
        "native_dropout",
        "normal_functional",
        "exponential_",
        "geometric_",
        "log_normal_",
        "cauchy_",
    ]
)
UNINITIALIZED = frozenset(["empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"])
LITERAL = frozenset(("lift_fresh", "lift_fresh_copy", "lift"))


def name_of(func: Any) -> str:
    """Return the plain name of an aten overload."""
    name = func._schema.name.rpartition("::")[2]
    return _OVERLOADS.get((name, func._overloadname)) or _NAMES.get(name, name)


def attributes(func: Any, args: Any, kwargs: Any, name: str) -> dict[str, Any]:
    """Return a call's arguments that are no tensors, by the names in its schema, defaults included."""
    found: dict[str, Any] = {}
    place = 0
    for number, argument in enumerate(func._schema.arguments):
        value: Any
        if number < len(args):
            value = args[number]
        elif argument.name in kwargs:
            value = kwargs[argument.name]
        elif argument.has_default_value():
            value = argument.default_value
        else:
            continue
        if isinstance(value, torch.Tensor):
            if argument.name in ("weight", "bias", "min", "max", "mask", "attn_mask"):
                found[f"{argument.name}_input"] = place
            place += 1
        elif isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
            place += sum(isinstance(v, torch.Tensor) for v in value)
        elif isinstance(value, (int, float, bool, str, list, tuple)):
            if (
                name in BINARY
                and isinstance(value, (int, float))
                and argument.name in ("self", "other", "exponent", "value")
            ) and not (name.startswith("addc") and argument.name == "value"):
                place += 1
                continue
            found[argument.name] = value
    if name in ("atan2",):
        found["guarded"] = True  # its derivative is masked where both operands are 0
    if name == "pow" and func._overloadname == "Scalar":
        found.pop("self", None)
    return found


def operands(func: Any, args: Any, kwargs: Any, name: str) -> list[Any]:
    """Return a call's operands in order: tensors, and the plain numbers of operations that take either."""
    found: list[Any] = []
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(v for v in value if isinstance(v, torch.Tensor))
        elif (
            name in BINARY
            and isinstance(value, (int, float))
            and argument.name in ("self", "other", "exponent", "value")
        ) and not (name.startswith("addc") and argument.name == "value"):
            found.append(value)
    return found
