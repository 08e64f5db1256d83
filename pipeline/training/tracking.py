"""The one door to MLflow: a run's parameters, lineage, metrics and artefacts, sent by a thread of its own.

In: steps as they are logged to `metrics.jsonl`. Out: one MLflow run, continued after every resume (its id
lives in `RUN/tracking.json`). What always holds: training never waits for the server, nor ends because of
it; every step stands once, since only steps beyond the last one that the server holds are sent; what could
not be sent is in `metrics.jsonl` and goes out at the next start.

Example:
    with open_tracker(policy, run, …) as tracker:
        tracker.log({"step": 1, "loss": 9.7})
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pipeline import storage
from pipeline.errors import Stopped
from pipeline.progress import say
from pipeline.recipe import TrackingPolicy
from pipeline.training.metrics import read_after

TRACKING = "tracking.json"
_SECONDS_BETWEEN_BATCHES = 2.0
# MLflow's own limits on one request.
_METRICS_A_BATCH = 1000
_PARAMETERS_A_BATCH = 100
_PARAMETER_LENGTH = 6000
# At the end of a run: how long to go on trying to deliver what is left.
_SECONDS_TO_FINISH = 60.0
_END_OF_QUEUE = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What the tracker is told once: parameters, lineage tags, files and folders to keep."""

    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    artefacts: Sequence[Path]


class Tracker(Protocol):
    """Takes steps; see the module's promises."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Keep a step to be sent."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NoTracker:
    """Tracking switched off, and every rank but the first: takes steps and forgets them."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Forget the step."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


def open_tracker(policy: TrackingPolicy, run: Path, record: RunRecord, *, is_first: bool) -> Tracker:
    """The tracker of a run folder; what `metrics.jsonl` holds and the server doesn't is sent first."""
    if policy.experiment is None or not is_first:
        return NoTracker()
    return MlflowTracker(policy.experiment, tracking_uri(policy, run), run, record)


def tracking_uri(policy: TrackingPolicy, run: Path) -> str:
    """Where a run is recorded: the recipe's word, $MLFLOW_TRACKING_URI, else `mlflow.db` beside the run."""
    return (
        policy.uri
        or os.environ.get("MLFLOW_TRACKING_URI")
        or f"sqlite:///{run.resolve().parent / 'mlflow.db'}"
    )


class MlflowTracker:
    """Sends steps to MLflow from a thread."""

    def __init__(self, experiment: str, uri: str, run: Path, record: RunRecord) -> None:
        self._experiment, self._uri, self._run, self._record = experiment, uri, run, record
        self._queue: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._pending: list[Mapping[str, Any]] = []
        self._client: Any = None
        self._run_id = ""
        self._last_sent = 0
        self._kept = False
        self._warned = False
        self._status = "FINISHED"
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Keep a step to be sent; returns at once."""
        self._queue.put(metrics)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._status = "KILLED" if isinstance(error, Stopped) else "FAILED"
        self._queue.put(_END_OF_QUEUE)
        self._thread.join(timeout=_SECONDS_TO_FINISH)
        if self._thread.is_alive() or self._pending:
            say(
                f"warning: the tracking server {self._uri} did not take the last {len(self._pending)} steps; "
                f"they are in {self._run / 'metrics.jsonl'}, and running the same command again sends them"
            )

    def _send(self) -> None:
        """The thread: gather, connect, send; until the queue ends and nothing is left to send."""
        ended, deadline = False, float("inf")
        while not ended or (self._pending and time.monotonic() < deadline):
            if not ended and self._gather():
                ended, deadline = True, time.monotonic() + _SECONDS_TO_FINISH / 2
            try:
                self._connect()
                self._send_pending()
                if ended:
                    self._client.set_terminated(self._run_id, self._status)
                self._warned = False
            except Exception as error:  # whatever a server, a network or a database does, training goes on
                # Found anew with the next batch: a call that failed may have been taken all the same.
                self._client = None
                self._warn(error)
                if ended:
                    time.sleep(_SECONDS_BETWEEN_BATCHES)

    def _gather(self) -> bool:
        """Move what comes within a batch's time to `_pending`; True where the queue has ended."""
        until = time.monotonic() + _SECONDS_BETWEEN_BATCHES
        while (left := until - time.monotonic()) > 0:
            try:
                metrics = self._queue.get(timeout=left)
            except queue.Empty:
                return False
            if metrics is _END_OF_QUEUE:
                return True
            self._pending.append(metrics)
        return False

    def _connect(self) -> None:
        """Find or create the run, once; a server that is away now is tried again with the next batch."""
        if self._client is not None:
            return
        # One try a call: waiting is this thread's own business.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        client = MlflowClient(tracking_uri=self._uri)
        path = str(self._run / TRACKING)
        known = storage.read_json(path) if storage.exists(path) else {}
        if known.get("uri") == self._uri:
            self._run_id = known["run_id"]
            client.update_run(self._run_id, status="RUNNING")
            # The metric `step` says how far the server is, without fetching a million points.
            self._last_sent = int(client.get_run(self._run_id).data.metrics.get("step", 0))
        else:
            experiment = self._experiment_id(client)
            made_by = {
                "mlflow.user": os.environ.get("USER") or str(os.getuid()),
                "mlflow.source.name": "bertpipe pretrain",
            }
            self._run_id = client.create_run(experiment, run_name=self._run.name, tags=made_by).info.run_id
            storage.write_json(path, {"uri": self._uri, "run_id": self._run_id, "experiment": experiment})
        parameters = [
            Param(key, str(value)[:_PARAMETER_LENGTH])
            for key, value in flatten(self._record.parameters).items()
        ]
        for start in range(0, len(parameters), _PARAMETERS_A_BATCH):
            client.log_batch(self._run_id, params=parameters[start : start + _PARAMETERS_A_BATCH])
        tags = [RunTag(key, value) for key, value in self._record.tags.items()]
        client.log_batch(self._run_id, tags=tags)
        self._client = client
        first = self._pending[0]["step"] if self._pending else float("inf")
        self._pending[:0] = [line for line in read_after(self._run, self._last_sent) if line["step"] < first]
        if not self._kept:
            self._keep_artefacts()

    def _keep_artefacts(self) -> None:
        """Send files and folders, once; a store that refuses them keeps no metric from the server."""
        self._kept = True
        try:
            for artefact in self._record.artefacts:
                if artefact.is_dir():
                    self._client.log_artifacts(self._run_id, str(artefact), artifact_path=artefact.name)
                else:
                    self._client.log_artifact(self._run_id, str(artefact))
        except Exception as error:  # as in `_send`
            say(f"warning: {self._uri} does not take artefacts ({_first_line(error)})")

    def _experiment_id(self, client: Any) -> str:
        found = client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        # The embedded database keeps its artefacts beside itself, wherever the command was started.
        beside = (self._run.resolve().parent / "mlartifacts").as_uri()
        location = beside if self._uri.startswith("sqlite:") else None
        # MLflow's pages otherwise take an experiment for one about prompts and traces.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(self._experiment, artifact_location=location, tags=kind))

    def _send_pending(self) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        while self._pending:
            batch: list[Any] = []
            taken = 0
            for metrics in self._pending:
                if len(batch) + len(metrics) > _METRICS_A_BATCH:
                    break
                taken += 1
                if metrics["step"] > self._last_sent:
                    batch += [
                        Metric(name, float(value), now, metrics["step"]) for name, value in metrics.items()
                    ]
            if batch:
                self._client.log_batch(self._run_id, metrics=batch)
            self._last_sent = max(self._last_sent, self._pending[taken - 1]["step"])
            del self._pending[:taken]

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            say(f"warning: {self._uri} does not take steps ({_first_line(error)}); they are kept for it")
        self._warned = True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as dotted keys: `{"phases": [{"steps": 3}]}` → `{"phases.0.steps": 3}`."""
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
