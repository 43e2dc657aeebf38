"""What every adapter knows of a run: how many steps, their history, the incidents; and what it does at one."""

import time
from collections.abc import Callable
from dataclasses import replace

from whynan.launch.host import Unwind, tell
from whynan.launch.options import RunOptions
from whynan.records import Incident
from whynan.records.incident import Stage
from whynan.watching.growth import GrowthWatch
from whynan.watching.history import RunHistory
from whynan.watching.trail import Trail


class Run:
    """The state of a watched run that no framework has a part in."""

    def __init__(self, options: RunOptions, record: Callable[[Incident], None]) -> None:
        self.options = options
        self.record = record
        self.history = RunHistory()
        self.trail = Trail()
        self.growth = GrowthWatch()
        self.n_steps = 0
        self.is_over = False
        self.incidents: list[Incident] = []
        self.skipped: list[Incident] = []
        self.n_recovered = 0
        self.stopped: Callable[[], BaseException] = Unwind
        """Makes the exception that ends the run."""

    def note_loss(self, loss: float) -> None:
        """Take the loss of the step under way."""
        self.history.loss.append(loss)
        self.growth.add(self.n_steps, loss)

    def deadline(self) -> float:
        """Return until when one incident may be looked at, on the monotonic clock."""
        return time.monotonic() + self.options.budget

    def take(self, incident: Incident, is_last: bool = False) -> None:
        """Record an incident; raise where the run ends with it: by its policy, or as the last that recovery takes."""
        if incident.look_back is None:
            terms = {t.name: t.value for t in incident.loss_terms if incident.symptom.stage == "train"}
            seen = self.trail.look_back(incident.symptom.step, terms, "that needs PyTorch")
            incident = replace(incident, look_back=seen)
        self.record(incident)
        self.incidents.append(incident)
        if self.options.policy == "stop" or is_last:
            self.is_over = True
            raise self.stopped()
        if self.options.policy == "observe":
            self.is_over = True
        else:
            self.n_recovered += 1
            if self.n_recovered >= MAX_RECOVERED:
                self.is_over = True
                tell(f"{MAX_RECOVERED} steps were skipped; no more are looked at")


MAX_RECOVERED = 20
"""Interventions in one run."""


def action_of(policy: str, stage: Stage) -> str:
    """Return what is done about an incident, in words."""
    if stage == "validation" and policy != "observe":
        return {"stop": "stopped; a validation loss changes no weight"}.get(policy, "the run goes on")
    return ACTIONS[policy]


ACTIONS = {
    "stop": "stopped before the update could use it",
    "observe": "nothing was changed; the script went on",
    "recover": "the batch was skipped, the weights are those from before the step, the run goes on",
}
