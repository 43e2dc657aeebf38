"""The processes of a job that are watched together: who is there, a flag that all share, and a place to leave messages.

Nothing here is registered with `torch.distributed`: the group of processes and the store are our own, beside the
program's, so that names, counts and order of its groups stay what they are without us. `Single` is where there is none.
"""

import os
import pickle
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from whynan.launch.host import tell
from whynan.report.output import write_safely

_ROLL_CALL_S = 30.0
"""How long rank 0 waits for the others to say that they are watched, too."""

_SLACK_S = 5.0
MOST_RANKS = 512
"""Each rank is connected with each other one: beyond this, connections and the way of a flag become too long."""


class Job:
    """This process's connection to the others. Raises RuntimeError where it cannot be made."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        if self.size > MOST_RANKS:
            raise RuntimeError(f"{self.size} ranks are more than the {MOST_RANKS} that decide together")
        self.store = dist.PrefixStore("whynan", dist.distributed_c10d._get_default_store())
        self.absent = self._roll_call()
        if self.absent:
            raise RuntimeError(self.absent)
        group = dist.PrefixStore("flags", self.store)
        self.group = dist.ProcessGroupGloo(group, self.rank, self.size, timedelta(minutes=30))

    def _roll_call(self) -> str:
        """Return why there is no common verdict, "" where all are watched. Rank 0 decides, for all the same."""
        self.store.set(f"here/{self.rank}", b"1")
        if self.rank == 0:
            missing = [rank for rank in range(self.size) if not self._is_set(f"here/{rank}", _ROLL_CALL_S)]
            text = f"rank {missing[0]} of {self.size} is not run by whynan" if missing else ""
            self.store.set("roll-call", text.encode() or b"-")
            return text
        if not self._is_set("roll-call", 2 * _ROLL_CALL_S):
            return "rank 0 is not run by whynan"
        text = bytes(self.store.get("roll-call")).decode()
        return "" if text == "-" else text

    def _is_set(self, key: str, seconds: float) -> bool:
        try:
            self.store.wait([key], timedelta(seconds=max(seconds, 0.001)))
        except Exception:
            return False
        return True

    # A flag ---------------------------------------------------------------------------------------------------------

    def launch(self, values: list[float]) -> "Flag":
        """Begin to find the largest of each of some numbers over all ranks; 4 bytes a number and rank."""
        tensor = torch.tensor(values)
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MAX
        return Flag(tensor, self.group.allreduce([tensor], options))

    # Messages -------------------------------------------------------------------------------------------------------

    def put(self, key: str, value: Any) -> None:
        """Leave a message for the others: plain records of this package."""
        self.store.set(key, pickle.dumps(value))

    def get(self, key: str, seconds: float) -> Any:
        """Return another rank's message; None where it did not come in time."""
        if not self._is_set(key, seconds):
            return None
        # Written by `put` of the same job: the store is the one that the program's own ranks trust.
        return pickle.loads(bytes(self.store.get(key)))

    def exchange(self, key: str, value: Any, seconds: float) -> list[Any]:
        """Return what each rank has left under a key, None for those that did not in time.

        Rank 0 collects and hands out the list: two messages a rank, and the same answer for all. Where rank 0 does not
        answer, all but one's own are None.
        """
        self.put(f"{key}/{self.rank}", value)
        if self.rank == 0:
            until = time.monotonic() + seconds
            found = [self.get(f"{key}/{rank}", until - time.monotonic()) for rank in range(self.size)]
            self.put(f"{key}/all", found)
            return found
        found = self.get(f"{key}/all", seconds + _SLACK_S)
        return found if found is not None else [value if rank == self.rank else None for rank in range(self.size)]


class Flag:
    """A reduction under way."""

    def __init__(self, tensor: Any, work: Any) -> None:
        self.tensor = tensor
        self.work = work

    def wait(self) -> list[float] | None:
        """Return the largest values; None where a rank is gone, which the program itself is about to notice."""
        try:
            self.work.wait()
        except Exception as error:
            tell("waiting for the other ranks failed", error)
            return None
        return [float(value) for value in self.tensor.tolist()]


class Patience:
    """Ends this process where an attempt in step has not come to its end: another rank hangs, and all wait for it.

    What is known has been written before. Nothing else can be done: whoever waits in a collective can't be called back.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        if sys.__stderr__ is not None:
            text = f"whynan: another rank has not answered for {self._seconds:.0f} s in a replay: this process ends\n"
            write_safely(text, sys.__stderr__)
        os._exit(3)

    def over(self) -> None:
        self._timer.cancel()


class Single:
    """What a watch asks of its ranks, where there are none."""

    is_joint = False
    agreed = False
    look_at_all = False

    def before_backward(self, look_is_due: bool) -> None:
        """Nobody is to be told."""

    def before_update(self) -> None:
        """Nobody is to be asked."""

    def before_sharded_update(self) -> None:
        """Nobody has the other parts of the parameters."""

    def step_is_over(self) -> None:
        """Nothing has been agreed on."""
