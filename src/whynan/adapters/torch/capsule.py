"""The failing step in a folder: written as it was before it ran, and run again in its script.

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
from whynan.adapters.torch.data import loader
from whynan.adapters.torch.sites import Leaving, Pass
from whynan.errors import CapsuleError
from whynan.launch.host import tell
from whynan.records import CauseFound, Incident, ReplayResult, Symptom
from whynan.snapshot import NamesSnapshot, frame_values, target_names

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost
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


_N_TRIES = 3


def read(place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a capsule's JSON and its tensors. Raises CapsuleError."""
    try:
        from safetensors.torch import load_file

        step = json.loads((place / STEP).read_text())
        tensors = load_file(str(place / STATE))
    except ImportError:
        raise CapsuleError('a capsule needs safetensors: pip install "whynan[capsule]"') from None
    except (OSError, ValueError) as error:
        raise CapsuleError(f"{place} is no capsule that can be read: {error}") from None
    if step.get("schema") != SCHEMA:
        raise CapsuleError(f"{place / STEP} has schema {step.get('schema')!r}, this whynan reads {SCHEMA!r}")
    return step, tensors


class CapsuleReplay:
    """Waits for the capsule's loop; puts the state in; asks for the step up to three times."""

    def __init__(self, host: "TorchHost", place: Path) -> None:
        self.host = host
        self.step, self.tensors = read(place)
        self.target: Pass | None = None
        self.n_runs = 0
        self._names: dict[str, Any] = {}

    def begins(self, current: Pass) -> bool:
        """Put the capsule's state in where this is the iteration; its snapshot is to be taken anew then."""
        site, wanted = current.site, self.step["site"]
        if self.target is not None or Path(site.filename).name != wanted["file"]:
            return False
        if site.function != wanted["function"] or site.header_line != wanted["line"]:
            return False
        if not self.host.known.optimizers and self.step["optimizers"]:
            return False
        self.target = current
        self._put_in(current)
        return True

    def ended(self, current: Pass) -> bool:
        """Whether a step that came out finite is run once more; after the last time the run ends."""
        if current is not self.target or self.host.plan is not None or self.host.pending is not None:
            return False
        self.n_runs += 1
        if self.n_runs < _N_TRIES and current.snapshot is not None:
            current.snapshot.restore(current.frame, self._names)
            self.host.watch.n_steps = int(self.step["step"])
            return True
        self.host.record(self._not_reproduced())
        self.host.is_over = True
        self.host.watch.enabled = False
        raise Leaving(None)

    def _put_in(self, current: Pass) -> None:
        with torch.no_grad():
            self._load_models()
            for number, optimizer in enumerate(self.host.known.optimizers[: len(self.step["optimizers"])]):
                self._load_optimizer(number, optimizer, self.step["optimizers"][number])
        self._names = {k: v for k, v in self.step["names"].items() if k in current.site.assigned | current.site.targets}
        self._names |= self._batch()
        NamesSnapshot.bind(current.frame, self._names)
        self.host.watch.n_steps = int(self.step["step"])
        self._load_random()

    def _load_models(self) -> None:
        saved = {
            _bare(name.split(".", 2)[2]): tensor for name, tensor in self.tensors.items() if name.startswith("model.")
        }
        missing, n_loaded = [], 0
        for module in self.host.known.roots().values():
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                value = saved.get(_bare(name))
                if value is None or value.shape != tensor.shape:
                    missing.append(name)
                else:
                    tensor.data.copy_(value)
                    n_loaded += 1
        if not n_loaded or missing:
            tell(f"the capsule holds no value for {', '.join(missing[:4]) or 'any parameter'}: is it of this script")

    def _load_optimizer(self, number: int, optimizer: Any, saved: dict[str, Any]) -> None:
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in self.tensors.items():
            parts = name.split(".", 3)
            if parts[0] == "optimizer" and int(parts[1]) == number:
                state.setdefault(int(parts[2]), {})[parts[3]] = tensor
        for name, value in saved["state"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        own_groups = optimizer.state_dict()["param_groups"]
        groups = [{**own, **kept, "params": own["params"]} for own, kept in zip(own_groups, saved["groups"])]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _load_random(self) -> None:
        import numpy as np

        version, state, gauss = self.step["random"]["python"]
        random.setstate((version, tuple(state), gauss))
        name, position, has_gauss, cached = self.step["random"]["numpy"]
        np.random.set_state((name, self.tensors["random.numpy"].numpy().astype("uint32"), position, has_gauss, cached))
        torch.set_rng_state(self.tensors["random.torch"])

    def _batch(self) -> dict[str, Any]:
        """Return what the loop's names are bound to: the saved batch, or the same samples of this data set."""
        if self.step["batch"] is not None:
            for origin in loader.recent()[:1] if self.step["indices"] else ():
                loader.replace_current(origin, tuple(self.step["indices"]))
            return {name: unflatten(tree, self.tensors) for name, tree in self.step["batch"].items()}
        origins, indices = loader.recent(), self.step["indices"]
        if not indices or not origins or self.target is None:
            tell("the capsule has neither the batch nor its indices; the step runs on the script's first batch")
            return {}
        origin = next((o for o in origins if len(o.indices) > 0), origins[0])
        made = origin.collate_fn([origin.dataset[index] for index in indices])
        names = sorted(self.target.site.targets)
        ordered = target_names(self.target.site)
        loader.replace_current(origin, tuple(indices))
        if len(names) == 1:
            return {names[0]: made}
        data = [name for name in ordered if name not in self.step["names"]]
        return dict(zip(data, made)) if len(data) > 1 else {data[0]: made} if data else {}

    def _not_reproduced(self) -> Incident:
        step = self.step
        here = socket.gethostname()
        symptom = step["symptom"]
        why = f"the step of the capsule, run again {self.n_runs} times on {here}, came out finite"
        there = f"it failed on rank {step['rank']} of {step['host']} ({step['device']}, torch {step['torch']})"
        cause = CauseFound(
            "non-reproducible",
            0.85,
            "the same step, run again, is finite",
            "The same step with the same state, batch and random numbers is finite here: the machine on which it "
            "failed, a race, or a kernel of its device.",
            (why, there),
        )
        return Incident(
            symptom=Symptom(symptom["what"], symptom["name"], symptom["value"], int(step["step"]), step["epoch"]),
            replay=ReplayResult(False, "re-yield", f"{why}; {there}"),
            causes=(cause,),
            policy=self.host.options.policy,
            action="stopped",
        )


def _bare(name: str) -> str:
    """Return a parameter's name without what wrappers put before it."""
    return name.replace("module.", "").replace("_orig_mod.", "")
