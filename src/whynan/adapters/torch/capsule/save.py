"""Write the failing step as it was before it ran: parameters, optimizer, running statistics, random states, indices.

Nested batches are JSON with references to tensors.
"""

import json
import os
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch import sources
from whynan.launch.host import tell
from whynan.snapshot.python_state import frame_values

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan

STATE, STEP = "state.safetensors", "capsule.json"
SCHEMA = "whynan.capsule/1"


def save(plan: "Plan", place: Path, with_data: bool) -> None:
    """Write a capsule; called when the state before the step has been put back. Says so where it cannot."""
    try:
        from safetensors.torch import save_file
    except ImportError:
        tell('a capsule needs safetensors: pip install "whynan[capsule]"')
        return
    tensors: dict[str, Any] = {}
    step = _step(plan, tensors, with_data)
    place.mkdir(parents=True, exist_ok=True)
    for name, write in (
        (STATE, lambda path: save_file(tensors, path)),
        (STEP, lambda path: Path(path).write_text(json.dumps(step, indent=1, allow_nan=False) + "\n")),
    ):
        temporary = place / f".{name}.{os.getpid()}.tmp"
        write(str(temporary))
        os.replace(temporary, place / name)


def _step(plan: "Plan", tensors: dict[str, Any], with_data: bool) -> dict[str, Any]:
    site, pending, known = plan.target.site, plan.pending, plan.host.known
    for number, module in enumerate(known.roots().values()):
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.layout == torch.strided:
                tensors[f"model.{number}.{name}"] = tensor.detach().cpu().contiguous().clone()
    tensors["random.torch"] = torch.get_rng_state()
    origin = sources.batch_origin(plan)
    batch, why = _batch(plan, tensors) if with_data else (None, "the sample data was not asked for (--capsule-data)")
    job = plan.host.ranks.job
    indices = list(origin.indices) or None if origin is not None else None
    return {
        "schema": SCHEMA,
        "site": {"file": Path(site.filename).name, "function": site.function, "line": site.header_line},
        "step": pending.step,
        "epoch": pending.epoch,
        "symptom": {"what": pending.what, "name": pending.name, "value": pending.kind},
        "rank": job.rank if job is not None else 0,
        "host": socket.gethostname(),
        "device": str(next((p.device for p in known.parameters()), "cpu")),
        "torch": torch.__version__,
        "optimizers": [_optimizer(n, optimizer, tensors) for n, optimizer in enumerate(known.optimizers)],
        "random": _random(tensors),
        "indices": indices if indices and all(isinstance(index, int) for index in indices) else None,
        "names": _scalars(plan),
        "batch": batch,
        "without_batch": why,
    }


def _optimizer(number: int, optimizer: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return hyperparameters and plain state; parameters are numbered as `state_dict` does."""
    plain: dict[str, Any] = {}
    saved = optimizer.state_dict()
    for index, values in saved["state"].items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{number}.{index}.{key}"] = value.detach().cpu().contiguous().clone()
            elif isinstance(value, (bool, int, float)):
                plain[f"{index}.{key}"] = value
    groups = [{key: value for key, value in group.items() if _is_plain(value)} for group in saved["param_groups"]]
    return {"class": type(optimizer).__name__, "groups": groups, "state": plain}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _random(tensors: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    version, state, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    tensors["random.numpy"] = torch.tensor([int(key) for key in keys], dtype=torch.int64)
    return {
        "python": [version, list(state), gauss],
        "numpy": [str(name), int(position), int(has_gauss), float(cached)],
    }


def _scalars(plan: "Plan") -> dict[str, Any]:
    """Return the plain numbers and texts that the loop's function holds: epoch, step, a factor."""
    values = frame_values(plan.target.frame) or {}
    return {
        name: value
        for name, value in values.items()
        if not name.startswith("__") and isinstance(value, (bool, int, float, str)) and _is_finite(value)
    }


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or value - value == 0.0


def _batch(plan: "Plan", tensors: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    values = sources.values_at_start(plan)
    names = [name for name in plan.target.site.targets if name in values]
    try:
        return {name: flatten(values[name], f"batch.{name}", tensors) for name in names}, None
    except NoTreeError as error:
        return None, f"the batch cannot be saved: {error}"


class NoTreeError(TypeError):
    """A value that a capsule has no place for."""


def flatten(value: Any, name: str, tensors: dict[str, Any]) -> Any:
    """Return `value` as JSON; its tensors go into `tensors`. Raises NoTreeError for objects of other kinds."""
    if isinstance(value, torch.Tensor) and value.layout == torch.strided:
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if type(value).__module__ == "numpy" and getattr(value, "dtype", None) is not None and value.dtype.kind in "fiub":
        tensors[name] = torch.as_tensor(value).clone()
        return {"array": name}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value if not isinstance(value, float) else value.hex()}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [flatten(item, f"{name}.{n}", tensors) for n, item in enumerate(value)]}
    if hasattr(value, "items") and all(isinstance(key, str) for key in value):
        return {"dict": {key: flatten(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    raise NoTreeError(f"{name} is a {type(value).__name__}")


def unflatten(tree: Any, tensors: dict[str, Any]) -> Any:
    """Return the value that `flatten` was given; a named tuple comes back as a tuple."""
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "array":
        return tensors[content].numpy().copy()
    if kind == "value":
        return float.fromhex(content) if isinstance(content, str) and _is_hex(content) else content
    if kind == "dict":
        return {key: unflatten(item, tensors) for key, item in content.items()}
    items = [unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _is_hex(text: str) -> bool:
    return text.lstrip("-").startswith("0x") or text in ("nan", "inf", "-inf")
