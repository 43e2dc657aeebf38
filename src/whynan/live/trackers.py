"""Experiment trackers that the script itself uses get the run's scalars and the report, when the run has ended.

Nothing is imported that the script has not imported, and no run of a tracker is begun.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whynan.launch.host import tell

_MOST_POINTS = 1000
_FILES = ("report.json", "report.html", "history.npz")


def tell_trackers(history: Mapping[str, Sequence[float]], headline: str | None, out: Path) -> None:
    """Hand the history and the report's files to the trackers that are in use. A failure is told, never raised."""
    for name, log in (("wandb", _to_wandb), ("mlflow", _to_mlflow)):
        module = sys.modules.get(name)
        if module is None:
            continue
        try:
            log(module, _points(history), headline, [out / file for file in _FILES if (out / file).exists()])
        except Exception as error:
            tell(f"handing the report to {name} failed", error)


def _points(history: Mapping[str, Sequence[float]]) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of each series, the last of them; steps are counted backwards from the end."""
    n = max((len(values) for values in history.values()), default=0)
    found = {}
    for name, values in history.items():
        rows = [(n - len(values) + k, float(value)) for k, value in enumerate(values)]
        found[name] = [row for row in rows if math.isfinite(row[1])][-_MOST_POINTS:]
    return found


def _to_wandb(wandb: Any, points: dict[str, list[tuple[int, float]]], headline: str | None, files: list[Path]) -> None:
    run = getattr(wandb, "run", None)
    if run is None:
        return
    run.define_metric("whynan/step")
    run.define_metric("whynan/*", step_metric="whynan/step")
    rows: dict[int, dict[str, float]] = {}
    for name, series in points.items():
        for step, value in series:
            rows.setdefault(step, {})[f"whynan/{name}"] = value
    for step in sorted(rows):
        run.log({"whynan/step": step, **rows[step]})
    run.summary["whynan/outcome"] = headline or "healthy"
    artifact = wandb.Artifact(f"whynan-report-{run.id}", type="whynan-report", description=headline)
    for file in files:
        artifact.add_file(str(file))
    run.log_artifact(artifact)


def _to_mlflow(
    mlflow: Any, points: dict[str, list[tuple[int, float]]], headline: str | None, files: list[Path]
) -> None:
    run = mlflow.active_run() or mlflow.last_active_run()
    if run is None:
        return
    import time

    client, run_id, now = mlflow.MlflowClient(), run.info.run_id, int(time.time() * 1000)
    metrics = [
        mlflow.entities.Metric(f"whynan.{name}", value, now, step)
        for name, series in points.items()
        for step, value in series
    ]
    for start in range(0, len(metrics), 500):
        client.log_batch(run_id, metrics=metrics[start : start + 500])
    client.set_tag(run_id, "whynan.outcome", headline or "healthy")
    for file in files:
        client.log_artifact(run_id, str(file), "whynan")
