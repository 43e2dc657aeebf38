"""Run the step of a capsule again in its script, whose first iteration of that loop becomes that step."""

import json
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whynan.adapters.torch.capsule.save import SCHEMA, STATE, STEP, unflatten
from whynan.adapters.torch.data import loader
from whynan.adapters.torch.event import Leaving
from whynan.adapters.torch.sites import Pass
from whynan.errors import CapsuleError
from whynan.launch.host import tell
from whynan.records import Incident, ReplayResult, Symptom
from whynan.records.incident import CauseFound
from whynan.snapshot.carried import target_names
from whynan.snapshot.python_state import NamesSnapshot

if TYPE_CHECKING:
    from whynan.adapters.torch.host import TorchHost

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
