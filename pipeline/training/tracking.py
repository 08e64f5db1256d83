"""The one door to MLflow: a run's parameters, lineage, metrics and artefacts, sent by a thread of its own.

In: `metrics.jsonl`, which holds every step before it is sent. Out: one MLflow run, continued after every resume
(see `server_run`). What always holds: training never waits for the server, nor ends because
of it; every step stands once and in order, at the time it was trained, since only steps beyond the last one
that the server holds are sent; what could not be sent goes out when the server is back, or at the next start.

Example:
    with open_tracker(policy, run, …) as tracker:
        tracker.log({"step": 1, "loss": 9.7})
"""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pipeline.errors import Stopped
from pipeline.policies import TrackingPolicy
from pipeline.progress import say
from pipeline.training.metrics import METRICS, read_after
from pipeline.training.run_page import heading, metric_name, parameters, without_secrets
from pipeline.training.server_run import find_or_create

_SQLITE = "sqlite:///"
_SECONDS_BETWEEN_BATCHES = 2.0
# Steps read from the record at once, and MLflow's own limits on one request.
_STEPS_A_READ = 500
_METRICS_A_BATCH = 1000
_PARAMETERS_A_BATCH = 100
# One try a call, and none of them long: trying again is the thread's own business.
_CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # It would print addresses to standard output, which is for results; `find_or_create` says ours.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
# At the end of a run: how long to wait for a server that takes what is left, and for one that does not answer.
_SECONDS_TO_FINISH = 60.0
_SECONDS_FOR_THE_SILENT = 5.0
# After a stop signal: less than a launcher gives its ranks to end.
_SECONDS_AFTER_A_STOP = 10.0


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What the tracker is told once: parameters, lineage tags, text files and folders to keep."""

    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    artefacts: Sequence[Path]


class Tracker(Protocol):
    """Takes steps; see the module's promises."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """A step stands in `metrics.jsonl`."""

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


def make_database(uri: str) -> None:
    """Make the SQLite file that `uri` names, where it is one and isn't there yet.

    Under another name until it is whole: MLflow fills it for a second or more, and one that a kill has cut short it
    would refuse ever after.
    """
    if not uri.startswith(_SQLITE) or "?" in uri or os.path.exists(uri.removeprefix(_SQLITE)):
        return
    from mlflow import MlflowClient

    path = Path(uri.removeprefix(_SQLITE))
    for left in path.parent.glob(f".{path.name}.*.tmp*"):
        if not os.path.exists(f"/proc/{left.name.removeprefix(f'.{path.name}.').partition('.')[0]}"):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    MlflowClient(tracking_uri=f"{_SQLITE}{temporary}").search_experiments(max_results=1)
    with suppress(FileExistsError):  # another run's was quicker
        os.link(temporary, path)
    temporary.unlink()


class MlflowTracker:
    """Sends the steps of `metrics.jsonl` to MLflow from a thread."""

    def __init__(self, experiment: str, uri: str, run: Path, record: RunRecord) -> None:
        self._experiment, self._uri, self._run, self._record = experiment, uri, run, record
        # What is said and kept of the address.
        self._server = without_secrets(uri)
        self._started = time.time()
        self._client: Any = None
        self._run_id = ""
        # The last step that the server holds, and when it was trained (milliseconds since 1970).
        self._sent, self._sent_time = 0, 0
        self._artefacts_wait = True
        self._failing = False
        self._status = "FINISHED"
        self._ended, self._gave_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Nothing to do: the thread finds the step in `metrics.jsonl`, the one place where steps wait."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, Stopped)
        if kind is not None:
            self._status = "KILLED" if stopped else "FAILED"
        patience = _SECONDS_AFTER_A_STOP if stopped else _SECONDS_TO_FINISH
        self._ended.set()
        began = time.monotonic()
        while self._thread.is_alive():
            waited = time.monotonic() - began
            if waited > (_SECONDS_FOR_THE_SILENT if self._failing else patience):
                self._gave_up.set()
                say(
                    f"warning: {self._server} has not taken all of this run; its steps are in {self._run / METRICS}, "
                    "and running the same command again sends them"
                )
                return
            self._thread.join(timeout=0.1)

    def _send(self) -> None:
        """The thread: connect and send, until the run has ended and all of it is sent, or nobody waits."""
        while not self._gave_up.is_set():
            # Asked before sending: a step that was logged before the end is among those that are read now.
            ended = self._ended.is_set()
            try:
                self._connect()
                self._send_steps()
                self._send_artefacts()
                if ended:
                    self._conclude()
                    return
            except Exception as error:  # whatever a server, a network or a database does, training goes on
                # Found anew at the next try: a call that failed may have been taken all the same.
                self._client = None
                self._note(error)
            (self._gave_up if ended else self._ended).wait(_SECONDS_BETWEEN_BATCHES)

    def _connect(self) -> None:
        """Find or create the run; a server that is away is tried again a little later."""
        if self._client is not None:
            return
        for name, value in _CLIENT_SETTINGS.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        make_database(self._uri)
        client = MlflowClient(tracking_uri=self._uri)
        found = find_or_create(
            client,
            self._uri,
            self._run,
            experiment=self._experiment,
            tags=heading(self._record.parameters, self._record.tags),
            started=self._started,
        )
        if found.info.run_id != self._run_id:
            self._run_id, self._artefacts_wait = found.info.run_id, True
        if found.info.status != "RUNNING":
            client.update_run(self._run_id, status="RUNNING")
        # The metric `step` says how far the server is, without fetching a million points.
        self._sent = int(found.data.metrics.get(metric_name("step"), 0))
        # MLflow refuses a parameter's second value; what a later start may change becomes a tag.
        wanted, there = parameters(self._record.parameters), found.data.params
        new = [Param(key, value) for key, value in wanted.items() if key not in there]
        for start in range(0, len(new), _PARAMETERS_A_BATCH):
            client.log_batch(self._run_id, params=new[start : start + _PARAMETERS_A_BATCH])
        changed = {f"now.{key}": value for key, value in wanted.items() if there.get(key, value) != value}
        tags = [RunTag(key, value) for key, value in {**self._record.tags, **changed}.items()]
        client.log_batch(self._run_id, tags=tags)
        self._client = client
        if self._failing:
            say(f"{self._server} takes steps again")
        self._failing = False

    def _send_steps(self) -> None:
        """Send what `metrics.jsonl` holds beyond the last step that the server has."""
        while lines := read_after(self._run, self._sent, limit=_STEPS_A_READ):
            for batch in _batches(lines):
                self._client.log_batch(self._run_id, metrics=[metric for line in batch for metric in line])
                self._sent, self._sent_time = batch[-1][0].step, batch[-1][0].timestamp

    def _send_artefacts(self) -> None:
        """Send text files (without passwords) and folders, once; a store that refuses them keeps no metric back."""
        if not self._artefacts_wait:
            return
        try:
            for artefact in self._record.artefacts:
                if artefact.is_dir():
                    self._client.log_artifacts(self._run_id, str(artefact), artifact_path=artefact.name)
                else:
                    text = without_secrets(artefact.read_text(encoding="utf-8"))
                    self._client.log_text(self._run_id, text, artefact.name)
            self._artefacts_wait = False
        except Exception as error:  # as in `_send`
            # Asked before it is called a refusal: a server that went away is an error of its own, and tried again.
            self._client.get_run(self._run_id)
            self._artefacts_wait = False
            say(f"warning: {self._server} does not take artefacts ({_reason(error)})")

    def _conclude(self) -> None:
        """Mark the run; it ended when its last step did, which may be long before the server heard of it."""
        if self._sent_time:
            self._client.set_terminated(self._run_id, self._status, end_time=self._sent_time)
        else:
            self._client.update_run(self._run_id, status=self._status)

    def _note(self, error: Exception) -> None:
        if not self._failing:
            say(f"warning: {self._server} does not take steps ({_reason(error)}); they are kept for it")
        self._failing = True


def _batches(lines: Sequence[Mapping[str, Any]]) -> Iterator[list[list[Any]]]:
    """Steps as MLflow's metrics, in portions that one request may hold; a step is never parted."""
    from mlflow.entities import Metric

    batch: list[list[Any]] = []
    for line in lines:
        # When the step was trained, not when it is sent: so a repeated request is no second point, either.
        moment = int(line.get("time", time.time()) * 1000)
        step = [
            Metric(metric_name(name), float(value), moment, line["step"])
            for name, value in line.items()
            if name != "time" and isinstance(value, int | float)
        ]
        if batch and sum(map(len, batch)) + len(step) > _METRICS_A_BATCH:
            yield batch
            batch = []
        batch.append(step)
    if batch:
        yield batch


def _reason(error: Exception) -> str:
    """What went wrong, in a few words: of a connection's error, nested three deep, the innermost."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    innermost = re.search(r"Caused by \w+\([\"'](?:.*?\): )?(.*?)[\"']?\)\)", line)
    return without_secrets(innermost[1] if innermost else line)
