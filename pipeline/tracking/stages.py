"""Stages other than training, as their commands record them below the pipeline's run.

In: what a stage made, and the pipeline it belongs to: one named by `--pipeline` or $BERTPIPE_PIPELINE (`vocab`,
`shard`, while they run), or that of a checkpoint's run folder (`evaluate`, `convert`, when they are done). Out: a child
run. What always holds: nothing is recorded where no pipeline is known, and MLflow is not loaded then; a server that
does not take it costs a warning, never the command.

Example:
    manifest = recorded_shard("SHARDS/128", config.settings, lambda: sharding.run(config))
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.vocabulary import LINEAGE_FILE, Vocabulary
from pipeline.errors import Stopped
from pipeline.policies import TrackingPolicy
from pipeline.progress import say
from pipeline.tracking import server
from pipeline.tracking.record import StageRecord, Status
from pipeline.tracking.run_page import flatten, without_secrets
from pipeline.tracking.server_run import (
    TRACKING,
    experiment_id,
    find_or_make_parent,
    pipeline_key,
    unless_deleted,
)
from pipeline.tracking.stage_run import record_stage
from pipeline.tracking.tracker import PIPELINE

# Where a pipeline is recorded whose run folder isn't known yet: what the shipped recipes' runs lie in.
_RUNS = "RUNS"
# MLflow's own variable; the recipes' default otherwise.
_EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"


def vocab_record(vocabulary: str, lineage: Mapping[str, Any], *, size: int, cased: bool) -> StageRecord:
    """The stage that made a vocabulary, of which `vocabulary` is the hash; its lineage may be unknown (empty)."""
    corpus = lineage.get("corpus", {})
    return StageRecord(
        stage="vocab",
        key=vocabulary,
        made=vocabulary,
        parameters=lineage.get("settings", {}),
        tags={
            "bertpipe.vocabulary": vocabulary,
            "bertpipe.corpus": str(corpus.get("fingerprint", "not known")),
        },
        metrics={"vocabulary/size": size, **_figures("corpus", corpus)},
        texts={"lineage.json": storage.json_text(lineage)} if lineage else {},
        note=f"WordPiece vocabulary `{vocabulary}`: {size:,} tokens, {'cased' if cased else 'uncased'}.",
    )


def shard_record(folder: str, manifest: Manifest) -> StageRecord:
    """The stage that made a folder of shards."""
    pairs = {side: manifest.pairs(side) for side in ("train", "validation")}
    return StageRecord(
        stage="shard",
        key=_place(folder),
        made=manifest.hash,
        parameters=manifest.settings,
        tags={
            "bertpipe.shards": manifest.hash,
            "bertpipe.vocabulary": str(manifest.vocabulary["hash"]),
            "bertpipe.corpus": str(manifest.corpus.get("fingerprint")),
            "bertpipe.folder": without_secrets(_place(folder)),
        },
        metrics={**_figures("corpus", manifest.corpus), **_figures("shards", manifest.counts)},
        texts={"manifest.json": storage.json_text(manifest.stated())},
        note=f"Shards `{manifest.hash}` in `{folder}`: {pairs['train']:,} pairs to train on, "
        f"{pairs['validation']:,} held out.",
    )


def _place(folder: str) -> str:
    local = storage.local_path(folder)
    return folder if local is None else os.path.abspath(local)


def _figures(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among nested values, named for MLflow."""
    flat = flatten(
        {name: value for name, value in values.items() if name not in ("sources", "filters", "kinds")}
    )
    return {
        f"{group}/{name.replace('.', '/')}": float(value)
        for name, value in flat.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


@dataclass
class Stage:
    """A stage that runs; a command says what it made."""

    record: StageRecord | None = None
    done: StageRecord | None = field(default=None, init=False)

    def made(self, record: StageRecord) -> None:
        """What came of it."""
        if self.record is not None:
            self.done = replace(record, key=self.record.key)


@contextmanager
def recorded(stage: str, *, output: str, parameters: Mapping[str, Any]) -> Iterator[Stage]:
    """Record a stage from its beginning to its end, where a pipeline is named; see the module's promises."""
    pipeline = os.environ.get(PIPELINE)
    if not pipeline:
        yield Stage()
        return
    known = Stage(StageRecord(stage=stage, key=_place(output), parameters=parameters))
    assert known.record is not None
    started = time.time()
    _tell(pipeline, known.record, "RUNNING", started)
    try:
        yield known
    except BaseException as error:
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        _tell(pipeline, known.record, "KILLED" if stopped else "FAILED", started)
        raise
    done = known.done or known.record
    seconds = {"seconds": round(time.time() - started, 3)}
    _tell(pipeline, replace(done, metrics={**done.metrics, **seconds}), "FINISHED", started)


def recorded_vocab(output: str, settings: Mapping[str, Any], make: Callable[[], Vocabulary]) -> Vocabulary:
    """`make()`, recorded where a pipeline is named."""
    with recorded("vocab", output=output, parameters=settings) as stage:
        made = make()
        if stage.record is not None:
            lineage = storage.read_json(storage.join(output, LINEAGE_FILE))
            stage.made(vocab_record(made.hash, lineage, size=made.size, cased=made.cased))
    return made


def recorded_shard(output: str, settings: Mapping[str, Any], make: Callable[[], Manifest]) -> Manifest:
    """`make()`, recorded where a pipeline is named."""
    with recorded("shard", output=output, parameters=settings) as stage:
        made = make()
        if stage.record is not None:
            stage.made(shard_record(output, made))
    return made


def _tell(pipeline: str, record: StageRecord, status: Status, started: float) -> None:
    """Record a stage of a pipeline that has a name."""
    runs = Path(_RUNS)
    uri = server.tracking_uri(TrackingPolicy(), runs / "any")
    try:
        client = server.connect(uri)
        number = experiment_id(
            client, uri, runs, os.environ.get(_EXPERIMENT) or TrackingPolicy().experiment or ""
        )
        parent = find_or_make_parent(client, number, pipeline_key(pipeline), pipeline, started)
        _record(client, parent, record, status, started)
    except Exception as error:  # whatever a server, a network or a database does, the stage goes on
        _warn(uri, record.stage, error)


def record_below(
    run: Path, tracking: Mapping[str, Any], record: StageRecord, *, started: float
) -> tuple[Any, Any] | None:
    """Record a finished stage below the pipeline of a run folder; MLflow's client and the stage's run.

    tracking: what the run's recipe says of it
    None where the folder is on record nowhere, or the server doesn't take it, which is said.
    """
    known = known_pipeline(run, tracking)
    if known is None:
        return None
    uri, parent_id = known
    try:
        client = server.connect(uri)
        parent = unless_deleted(client, parent_id)
        if parent is None:
            say(
                f"warning: {without_secrets(uri)} has no run {parent_id} any more; this {record.stage} is not recorded"
            )
            return None
        return client, _record(client, parent, record, "FINISHED", started)
    except Exception as error:  # as in `_tell`
        _warn(uri, record.stage, error)
        return None


def known_pipeline(run: Path, tracking: Mapping[str, Any]) -> tuple[str, str] | None:
    """Where the pipeline of a run folder is on record, and as which run; None where it isn't there."""
    path = run / TRACKING
    if not path.exists():
        return None
    uri = server.tracking_uri(TrackingPolicy(**tracking), run)
    known = storage.read_json(str(path)).get(without_secrets(uri), {})
    return (uri, str(known["parent"])) if "parent" in known else None


def _record(client: Any, parent: Any, record: StageRecord, status: Status, started: float) -> Any:
    found = record_stage(client, parent, record, status=status, started=started)
    if status == "RUNNING":
        client.update_run(parent.info.run_id, status="RUNNING")
    elif parent.info.status == "RUNNING" and record.stage in ("vocab", "shard"):
        # Between two stages nothing runs; the next one opens it again.
        client.set_terminated(parent.info.run_id, status, end_time=found.info.end_time)
    return found


def _warn(uri: str, stage: str, error: Exception) -> None:
    say(
        f"warning: {without_secrets(uri)} does not take this {stage} ({server.reason(error)}); it is not recorded"
    )
