"""What a run on the test cluster has left in a user's folder, and waiting for it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What a run learned, as against how fast it was.
LEARNED = ("step", "samples", "tokens", "loss", "mlm_loss", "nsp_loss", "learning_rate", "gradient_norm")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The steps on record; a line that is being written is not yet there."""
    path = folder / "RUNS/mine/metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def learned(folder: Path) -> list[dict[str, Any]]:
    return [{name: line[name] for name in LEARNED} for line in metrics(folder)]


def starts(folder: Path) -> list[dict[str, Any]]:
    """An entry a start of the run."""
    path = folder / "RUNS/mine/environment.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def recorded(folder: Path, uri: str | None = None) -> tuple[str, list[int]]:
    """The status of the one training that MLflow holds, and its steps in their order.

    uri: of the server (default: the database beside the run)
    """
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri or f"sqlite:///{folder / 'RUNS/mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'cluster'")
    # Other runs are of other stages, or group them.
    found = client.search_runs([experiment.experiment_id])
    (run,) = [run for run in found if "train/loss" in run.data.metrics]
    points = client.get_metric_history(run.info.run_id, "train/loss")
    return run.info.status, [point.step for point in points]


def wait_until(happened: Callable[[], Any], say: Callable[[], str] = lambda: "", seconds: float = 300) -> Any:
    """What `happened` returns once that is true; fails with what `say` says."""
    until = time.monotonic() + seconds
    while not (result := happened()):
        assert time.monotonic() < until, say()
        time.sleep(0.05)
    return result


def wait_for_steps(site: Any, job: int, count: int, *, start: int = 1) -> None:
    """Until the run's `start`th start has trained so that `count` steps are on record."""
    asked = 0.0

    def happened() -> bool:
        nonlocal asked
        if time.monotonic() - asked > 2:
            asked = time.monotonic()
            state = site.shown(job)["JobState"]
            assert state in ("PENDING", "RUNNING", "COMPLETING"), f"{state}: {site.output(job)}"
        return len(starts(site.folder)) >= start and len(metrics(site.folder)) >= count

    wait_until(happened, lambda: site.output(job))
