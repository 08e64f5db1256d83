"""What a run has on record, sent to a tracking server: its steps, samples of its nodes, predictions, pictures, lineage.

In: a run folder, where a training appends to `metrics.jsonl` and its like, and what is told of it once (`record`). Out:
one MLflow run, continued after every resume, below its pipeline's (see `server_run`). What always holds: whatever a
server does, nobody waits for it longer than is said below; every step stands once and in order, at the time it was
trained, since only steps beyond the last one that the server holds are sent, in each history of its own; what could not
be sent goes out when the server is back, or at the next start.

It works in a thread of the process that `sending` runs, so that it can be left behind.

Example:
    with Sender("bertpipe", uri, Path("RUNS/a"), record) as sender:
        ...
        sender.finish("FINISHED", patience=60)
"""

import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.progress import say
from pipeline.tracking import server
from pipeline.tracking.record import RunRecord, StageRecord, Status
from pipeline.tracking.run_page import (
    heading,
    metric_name,
    not_taken,
    parameters,
    sample_name,
    start_tags,
    without_secrets,
)
from pipeline.tracking.server_run import find_or_create
from pipeline.tracking.spool import METRICS, PREDICTIONS, Place, read_unsent
from pipeline.tracking.stage_run import record_stage
from pipeline.tracking.system import FOLDER as SYSTEM
from pipeline.tracking.tables import as_table, as_text

ENVIRONMENT = "environment.json"
# Fifty steps of a fast run: in batches of ten, MLflow's price a step is half as high again.
_SECONDS_BETWEEN_BATCHES = 5.0
_SECONDS_BETWEEN_TRIES = 2.0
# Lines read from the record at once, and MLflow's own limit on one request.
_LINES_A_READ = 500
_METRICS_A_BATCH = 1000
# At the end of a run, how long to wait for a server that does not answer.
_SECONDS_FOR_THE_SILENT = 5.0
_TOLD_BY_LINE = ("time", "branch")
_PICTURES = "pictures"


class Sender:
    """Sends a run's spool to MLflow from a thread."""

    def __init__(self, experiment: str, uri: str, run: Path, record: RunRecord, pipeline: str = "") -> None:
        self._experiment, self._uri, self._run, self._record = experiment, uri, run, record
        self._pipeline = pipeline
        # What is said and kept of the address.
        self._server = without_secrets(uri)
        self._started = time.time()
        self._client: Any = None
        self._parent: Any = None
        self._run_id = ""
        # The last line that the server holds of each file, and when the last step was trained (ms since 1970).
        self._sent: dict[str, Place] = {}
        self._sent_time = 0
        self._predictions_size = -1
        self._artefacts_wait = True
        self._failing = False
        self._status: Status = "FINISHED"
        self._ended, self._gave_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gave_up.set()
        self._ended.set()

    def finish(self, status: Status, *, patience: float) -> bool:
        """Send what is left and mark the run; whether all of it was taken within `patience` seconds."""
        self._status = status
        self._ended.set()
        began = time.monotonic()
        while self._thread.is_alive():
            waited = time.monotonic() - began
            if waited > (_SECONDS_FOR_THE_SILENT if self._failing else patience):
                self._gave_up.set()
                say(not_taken(self._server, self._run))
                return False
            self._thread.join(timeout=0.05)
        return True

    def _send(self) -> None:
        """The thread: connect and send, until the run has ended and all of it is sent, or nobody waits."""
        while not self._gave_up.is_set():
            # Asked before sending: a step that was logged before the end is among those that are read now.
            ended = self._ended.is_set()
            try:
                self._connect()
                self._send_steps()
                self._send_samples()
                self._send_artefacts()
                if ended:
                    self._conclude()
                    return
            except Exception as error:  # whatever a server, a network or a database does, training goes on
                # Found anew at the next try: a call that failed may have been taken all the same.
                self._client = None
                self._note(error)
            if ended:
                self._gave_up.wait(_SECONDS_BETWEEN_TRIES)
            else:
                self._ended.wait(_SECONDS_BETWEEN_BATCHES)

    def _connect(self) -> None:
        """Find or create the run; a server that is away is tried again a little later."""
        if self._client is not None:
            return
        client = server.connect(self._uri)
        found = find_or_create(
            client,
            self._uri,
            self._run,
            experiment=self._experiment,
            tags=heading(self._record.parameters, self._record.tags),
            started=self._started,
            pipeline=self._pipeline,
        )
        run, self._parent = found.run, found.parent
        if run.info.run_id != self._run_id:
            self._run_id, self._artefacts_wait, self._predictions_size = run.info.run_id, True, -1
        for each in (run, self._parent):
            if each.info.status != "RUNNING":
                client.update_run(each.info.run_id, status="RUNNING")
        # The metric `step` says how far the server is, without fetching a million points.
        self._sent = _held(run.data.metrics)
        server.send_parameters(client, self._run_id, run.data.params, parameters(self._record.parameters))
        server.send_tags(client, self._run_id, {**self._record.tags, **start_tags(self._last_start())})
        if self._record.datasets:
            server.send_datasets(client, self._run_id, list(self._record.datasets))
        self._client = client
        if self._failing:
            say(f"{self._server} takes steps again")
        self._failing = False

    def _last_start(self) -> dict[str, Any]:
        """What `environment.json` says of this start; nothing where it can't be read."""
        try:
            starts = json.loads((self._run / ENVIRONMENT).read_text(encoding="utf-8"))
            return dict(starts[-1])
        except (OSError, ValueError, IndexError, TypeError):
            return {}

    def _send_steps(self) -> None:
        """Send what `metrics.jsonl` holds beyond the last step that the server has."""
        for moment in self._send_lines(self._run / METRICS, metric_name):
            self._sent_time = moment

    def _send_samples(self) -> None:
        """Send what the nodes were doing."""
        for path in sorted((self._run / SYSTEM).glob("*.jsonl")):
            for _ in self._send_lines(path, partial(sample_name, path.stem)):
                pass

    def _send_lines(self, path: Path, named: Callable[[str, int], str]) -> Iterator[int]:
        """Send a file's lines beyond those that the server has; gives the moment of each batch's last line."""
        step_name = named("step", 0)
        while lines := read_unsent(path, self._sent.get(step_name, (0, 0)), limit=_LINES_A_READ):
            for batch in _batches(lines, named):
                self._client.log_batch(self._run_id, metrics=[metric for _, step in batch for metric in step])
                self._sent[step_name] = batch[-1][0]
                yield batch[-1][1][0].timestamp

    def _send_artefacts(self) -> None:
        """Send stages, pictures, texts and predictions; a store that refuses them keeps no metric back."""
        try:
            if self._artefacts_wait:
                for artefact in map(Path, self._record.artefacts):
                    self._send_artefact(artefact)
                for stage in self._record.stages:
                    self._add_stage(stage)
                self._draw_shards()
                self._artefacts_wait = False
            self._send_predictions()
        except Exception as error:  # as in `_send`
            # Asked before it is called a refusal: a server that went away is an error of its own, and tried again.
            self._client.get_run(self._run_id)
            if self._artefacts_wait or self._predictions_size >= 0:
                say(f"warning: {self._server} does not take artefacts ({server.reason(error)})")
            self._artefacts_wait = False

    def _send_artefact(self, artefact: Path) -> None:
        """Keep a text file (without passwords) or a folder."""
        if artefact.is_dir():
            self._client.log_artifacts(self._run_id, str(artefact), artifact_path=artefact.name)
        elif artefact.exists():
            text = without_secrets(artefact.read_text(encoding="utf-8"))
            self._client.log_text(self._run_id, text, artefact.name)

    def _add_stage(self, stage: StageRecord) -> None:
        record_stage(self._client, self._parent, stage, status="FINISHED", started=self._started)

    def _draw_shards(self) -> None:
        """Pictures of what the shards hold, once a run."""
        drawn = {item.path for item in self._client.list_artifacts(self._run_id)}
        if not self._record.shards or _PICTURES in drawn:
            return
        from pipeline.tracking import plots

        for folder in self._record.shards:
            for name, picture in plots.of_shards(folder).items():
                self._send_picture(name, picture)

    def _send_picture(self, name: str, picture: bytes) -> None:
        folder, _, file = f"{_PICTURES}/{name}".rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / file).write_bytes(picture)
            self._client.log_artifact(self._run_id, str(Path(temporary) / file), artifact_path=folder)

    def _send_predictions(self) -> None:
        """All predictions, as a table and as a text, where there are more than when they were sent."""
        path = self._run / PREDICTIONS
        size = path.stat().st_size if path.exists() else 0
        if size in (0, self._predictions_size):
            return
        lines = read_unsent(path, (0, 0))
        self._client.log_text(self._run_id, as_text(lines), "predictions.txt")
        self._client.log_dict(self._run_id, as_table(lines), "predictions.json")
        # What MLflow's pages show as a table.
        shown = json.dumps([{"path": "predictions.json", "type": "table"}])
        self._client.set_tag(self._run_id, "mlflow.loggedArtifacts", shown)
        self._predictions_size = size

    def _conclude(self) -> None:
        """Mark the run; it ended when its last step did, which may be long before the server heard of it."""
        if self._status == "FINISHED":
            self._draw_curves()
        for run_id in (self._run_id, self._parent.info.run_id):
            if self._sent_time:
                self._client.set_terminated(run_id, self._status, end_time=self._sent_time)
            else:
                self._client.update_run(run_id, status=self._status)

    def _draw_curves(self) -> None:
        """How it learned, as a picture; no reason to keep a run open."""
        if not self._sent_time:
            return
        from pipeline.tracking import plots

        try:
            if (picture := plots.learning_curves(self._run)) is not None:
                self._send_picture("learning_curves.png", picture)
        except Exception as error:  # as in `_send_artefacts`
            self._client.get_run(self._run_id)
            say(f"warning: {self._server} does not take artefacts ({server.reason(error)})")

    def _note(self, error: Exception) -> None:
        if not self._failing:
            say(f"warning: {self._server} does not take steps ({server.reason(error)}); they are kept for it")
        self._failing = True


def _held(metrics: Mapping[str, float]) -> dict[str, Place]:
    """The last line that a run has of each file, by the name of its step: of the last history, where it has several."""
    held: dict[str, Place] = {}
    for name, value in metrics.items():
        found = re.fullmatch(r"(?:branch(\d+)/)?(progress/step|system/(?:[^/]+/)?sample)", name)
        if found:
            place = (float(found[1] or 0), value)
            held[found[2]] = max(held.get(found[2], (0, 0)), place)
    return held


def _batches(
    lines: Sequence[Mapping[str, Any]], named: Callable[[str, int], str]
) -> Iterator[list[tuple[Place, list[Any]]]]:
    """Lines as MLflow's metrics, in portions that one request may hold; a line is never parted."""
    batch: list[tuple[Place, list[Any]]] = []
    for line in lines:
        # When the step was trained, not when it is sent: so a repeated request is no second point, either.
        moment = int(line.get("time", time.time()) * 1000)
        branch = line.get("branch", 0)
        step = [
            server.metric(named(name, branch), value, moment=moment, step=line["step"])
            for name, value in line.items()
            if name not in _TOLD_BY_LINE and isinstance(value, int | float)
        ]
        if batch and sum(len(each) for _, each in batch) + len(step) > _METRICS_A_BATCH:
            yield batch
            batch = []
        batch.append(((branch, line["step"]), step))
    if batch:
        yield batch
