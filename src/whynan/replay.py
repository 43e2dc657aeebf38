"""Rerun: the script is started again with the random streams of the first run, and the failing step is traced.

The second run is a process of its own, `whynan run` with a request in an environment variable. It sees no terminal and
writes into a temporary folder; what it finds comes back as a pickled incident. No framework here.
"""

import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whynan.launch import RunOptions, imports
from whynan.records import Incident, ReplayResult

VARIABLE = "WHYNAN_RERUN"
_EXTRA_S = 60.0
_TIMES = 4.0
"""A second run may take this many times the first: only its last steps are traced."""


@dataclass(frozen=True)
class Request:
    """What a second run has to look for: its random streams, and the step from which on it traces."""

    python: Any
    numpy: Any
    step: int
    what: str
    answer: str


class Streams:
    """The first states of Python's and NumPy's global random streams, before the script draws from them."""

    def __init__(self, request: Request | None) -> None:
        self.python: Any = random.getstate()
        self.numpy: Any = None
        self.request = request
        if request is not None:
            version, numbers, gauss = request.python
            random.setstate((version, tuple(numbers), gauss))
        imports.when_imported("numpy.random", self._meet_numpy)

    def _meet_numpy(self, module: Any) -> None:
        if self.request is not None and self.request.numpy is not None:
            name, keys, *rest = self.request.numpy
            module.set_state((name, module.mtrand.np.array(keys, dtype="uint32"), *rest))
        name, keys, *rest = module.get_state()
        self.numpy = [name, [int(key) for key in keys], *rest]


def requested() -> Request | None:
    """Return the request under which this process runs, None in an ordinary run."""
    path = os.environ.pop(VARIABLE, None)
    if path is None:
        return None
    return Request(**json.loads(Path(path).read_text()))


def answer(request: Request, incident: Incident) -> None:
    """Hand an incident back to the first run."""
    temporary = request.answer + ".tmp"
    Path(temporary).write_bytes(pickle.dumps(incident))
    os.replace(temporary, request.answer)


def is_wanted(incident: Incident) -> bool:
    """Whether a second run could tell more than the replay did."""
    return not incident.replay.reproduced and incident.replay.method != "rerun" and incident.origin is None


def rerun(
    incident: Incident,
    options: RunOptions,
    streams: Streams,
    place: Path,
    environment: dict[str, str],
    seconds: float,
    step: int,
) -> Incident:
    """Return the incident as a second run explains it, or why that did not work.

    `place` and `environment` are those in which the first run began, `seconds` the time that it took, `step` the number
    of steps after which it failed.
    """
    with tempfile.TemporaryDirectory(prefix="whynan-rerun-") as folder:
        found = os.path.join(folder, "incident")
        request = Request(streams.python, streams.numpy, step, incident.symptom.what, found)
        path = Path(folder, "request.json")
        path.write_text(json.dumps(vars(request)))
        why = _run(options, place, environment | {VARIABLE: str(path)}, folder, seconds)
        if os.path.exists(found):
            explained: Incident = pickle.loads(Path(found).read_bytes())
            return _merged(incident, explained)
    before = incident.replay.why or "the step could not be replayed in place"
    return replace(incident, replay=ReplayResult(False, "rerun", f"{before}; {why}", incident.replay.not_restored))


def _run(options: RunOptions, place: Path, environment: dict[str, str], folder: str, seconds: float) -> str:
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    program = ["-m", *options.argv] if options.module is not None else ["--", *options.argv]
    ours = ["--out", os.path.join(folder, "out"), "--policy", "stop", "--no-prove", "--budget", str(options.budget)]
    limit = _TIMES * seconds + _EXTRA_S
    try:
        done = subprocess.run(
            [sys.executable, *flags, "-m", "whynan", "run", *ours, *program],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return f"started again, it had not come to the step after {limit:.0f} s"
    except KeyboardInterrupt:
        return "the second run was interrupted"
    except OSError as error:
        return f"it could not be started again: {error}"
    return f"started again with the same seeds it stayed finite and ended with status {done.returncode}"


def _merged(first: Incident, second: Incident) -> Incident:
    """Return what the second run explains, under the symptom and the action of the first."""
    notes = second.notes
    if (first.symptom.what, first.symptom.step) != (second.symptom.what, second.symptom.step):
        notes = (*notes, f"the second run failed at step {second.symptom.step} with a non-finite {second.symptom.what}")
    return replace(second, symptom=first.symptom, policy=first.policy, action=first.action, notes=notes)
