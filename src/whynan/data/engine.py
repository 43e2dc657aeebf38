"""Where the units of a data set are worked on: in local processes, or on a Ray cluster."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

from whynan.data.finding import DataError, need, report
from whynan.data.units import Job, Outcome, Unit
from whynan.data.work import process

AHEAD = 3
"""Units handed out for each worker: enough to keep it busy, few enough to keep memory bounded."""

_job: Job | None = None


def default_workers() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


class LocalEngine:
    """Runs units in `n_workers` processes; 1 means in this one."""

    name = "local"

    def __init__(self, job: Job, n_workers: int) -> None:
        self._job = job
        self.n_workers = max(1, n_workers)
        self._pool: ProcessPoolExecutor | None = None

    def run(self, units: Iterable[Unit], is_small: bool = False) -> Iterator[Outcome]:
        """Yield the outcome of each unit, in the order in which they are done. `is_small`: not worth a process."""
        if self.n_workers == 1 or is_small:
            for unit in units:
                yield process(self._job, unit)
            return
        yield from self._run_in_pool(iter(units))

    def _run_in_pool(self, units: Iterator[Unit]) -> Iterator[Outcome]:
        waiting: dict[Future[Outcome], Unit] = {}
        suspects: list[Unit] = []
        is_over = False
        while True:
            while not is_over and len(waiting) < AHEAD * self.n_workers:
                unit = next(units, None)
                if unit is None:
                    is_over = True
                    break
                try:
                    waiting[self._start_pool().submit(_run, unit)] = unit
                except BrokenProcessPool:
                    suspects.append(unit)
                    self._drop_pool()
            if not waiting:
                break
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                unit = waiting.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    suspects.append(unit)
                    self._drop_pool()
        for unit in suspects:
            yield from self._run_carefully(unit)

    def _run_carefully(self, unit: Unit) -> Iterator[Outcome]:
        """Run a unit that may have killed its worker in a worker of its own, file by file if it does so again."""
        with ProcessPoolExecutor(1, _context(), _begin, (self._job,)) as pool:
            try:
                yield pool.submit(_run, unit).result()
                return
            except BrokenProcessPool:
                pass
        if len(unit.items) > 1:
            half = len(unit.items) // 2
            yield from self._run_carefully(replace(unit, items=unit.items[:half]))
            yield from self._run_carefully(replace(unit, items=unit.items[half:]))
            return
        outcome = Outcome(part=unit.part, n_done=len(unit.items))
        for item in unit.items:
            message = "reading this file ends the process that reads it: a fault in a decoder, or not enough memory"
            outcome.findings.add([report("worker-crashed", item.name, "crash", message)])
        yield outcome

    def _start_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.n_workers, _context(), _begin, (self._job,))
        return self._pool

    def _drop_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def close(self, is_hurried: bool = False) -> None:
        """End the workers; `is_hurried` does not wait for what they are at."""
        if self._pool is None:
            return
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=not is_hurried, cancel_futures=True)
        if is_hurried:
            for worker in processes:
                worker.terminate()
        self._pool = None


def _context() -> "multiprocessing.context.BaseContext":
    # A fork starts in a millisecond and runs no script of the user's again; with threads about it may deadlock.
    is_alone = threading.active_count() == 1
    method = "fork" if is_alone and "fork" in multiprocessing.get_all_start_methods() else "spawn"
    return multiprocessing.get_context(method)


def _begin(job: Job) -> None:
    global _job
    _job = job
    # Ctrl-C goes to every process of the terminal; the parent decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(unit: Unit) -> Outcome:
    assert _job is not None
    return process(_job, unit)


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
        rows = [{"unit": pickle.dumps(unit)} for unit in units]
        if not rows:
            return
        data = self._data.from_items(rows, override_num_blocks=min(len(rows), 4 * max(1, self.n_workers)))
        done = data.map(_run_row, fn_kwargs={"job": pickle.dumps(self._job)})
        for row in done.iter_rows():
            yield pickle.loads(row["outcome"])

    def close(self, is_hurried: bool = False) -> None:
        if self._is_ours:
            self._ray.shutdown()


def _run_row(row: dict[str, Any], job: bytes) -> dict[str, bytes]:
    known: Job = pickle.loads(job)
    return {"outcome": pickle.dumps(process(known, pickle.loads(row["unit"])))}
