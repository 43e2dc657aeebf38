"""Units of work on Ray Data, for sets that outgrow a machine: the same code in Ray's workers, the same outcomes."""

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from whynan.data.extra import DataError, need
from whynan.data.units import Job, Outcome, Unit
from whynan.data.work.dispatch import process


class RayEngine:
    """Runs units as rows of a Ray dataset. Joins the cluster of $RAY_ADDRESS, or starts one on this machine."""

    name = "ray"

    def __init__(self, job: Job, n_workers: int) -> None:
        # Read when ray is imported: its usage statistics would leave this machine.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        self._ray = need("ray", "ray", "--engine ray")
        self._data = need("ray.data", "ray", "--engine ray")
        self._job = job
        self.n_workers = n_workers
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._start()
        self._data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def _start(self) -> None:
        address = os.environ.get("RAY_ADDRESS")
        try:
            if address:
                self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            else:
                self._ray.init(
                    num_cpus=max(1, self.n_workers), include_dashboard=False, log_to_driver=False, logging_level="ERROR"
                )
        except Exception as error:  # Ray raises whatever its parts raise
            where = f"the Ray cluster at {address}" if address else "a local Ray cluster"
            raise DataError(f"{where} cannot be reached: {error}") from error

    def run(self, units: Iterable[Unit], is_small: bool = False) -> Iterator[Outcome]:
        """Yield the outcome of each unit."""
        rows = [{"unit": pickle.dumps(unit)} for unit in units]
        if not rows:
            return
        data = self._data.from_items(rows, override_num_blocks=min(len(rows), 4 * max(1, self.n_workers)))
        done = data.map(_run, fn_kwargs={"job": pickle.dumps(self._job)})
        for row in done.iter_rows():
            yield pickle.loads(row["outcome"])

    def close(self, is_hurried: bool = False) -> None:
        if self._is_ours:
            self._ray.shutdown()


def _run(row: dict[str, Any], job: bytes) -> dict[str, bytes]:
    """Do a unit in a worker of Ray."""
    known: Job = pickle.loads(job)
    return {"outcome": pickle.dumps(process(known, pickle.loads(row["unit"])))}
