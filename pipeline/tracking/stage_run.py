"""A stage's run below its pipeline's, on a server that has been found.

In: MLflow's client, the parent run, a `StageRecord`. Out: one child run. What always holds: a stage has one run,
however often it is recorded and whatever died in between; a stage whose result is recorded already, by the command that
made it or by a later one that read it, is not recorded a second time.

Example:
    record_stage(client, parent, StageRecord(stage="shard", key="…", made=manifest.hash), status="FINISHED")
"""

import time
from typing import Any

from pipeline.lineage import hash_bytes
from pipeline.tracking.record import StageRecord, Status
from pipeline.tracking.run_page import PARENT, STAGE, flatten, stage_heading, without_secrets
from pipeline.tracking.server import metric, send_parameters, send_tags
from pipeline.tracking.server_run import KEY, by_key

# What a stage made, by hash.
MADE = "bertpipe.made"
# MLflow's own limits.
_PARAMETER_LENGTH = 6000
_METRICS_A_BATCH = 1000


def record_stage(
    client: Any,
    parent: Any,
    record: StageRecord,
    *,
    status: Status,
    started: float | None = None,
    ended: float | None = None,
) -> Any:
    """Record a stage below `parent`; returns its run.

    started, ended: seconds since 1970; by default now
    """
    now = time.time()
    found = _there(client, parent, record)
    if (
        found is not None
        and found.info.status == "FINISHED"
        and (status != "FINISHED" or _is_told(found, record))
    ):
        return found  # the command was run again, and found it all there
    if found is None:
        tags = {KEY: _key(parent, record), STAGE: record.stage, PARENT: parent.info.run_id}
        name = f"{parent.info.run_name}/{record.stage}"
        start_time = int((started or now) * 1000)
        found = client.create_run(parent.info.experiment_id, run_name=name, start_time=start_time, tags=tags)
    run_id = found.info.run_id
    values = {key: without_secrets(str(value)) for key, value in flatten(record.parameters).items()}
    wanted = {key: value[:_PARAMETER_LENGTH] for key, value in values.items()}
    send_parameters(client, run_id, found.data.params, wanted)
    send_tags(client, run_id, {**stage_heading(record.stage, without_secrets(record.note)), **record.tags})
    moment = int((ended or now) * 1000)
    points = [metric(name, value, moment=moment, step=record.step) for name, value in record.metrics.items()]
    for first in range(0, len(points), _METRICS_A_BATCH):
        client.log_batch(run_id, metrics=points[first : first + _METRICS_A_BATCH])
    for name, text in record.texts.items():
        client.log_text(run_id, without_secrets(text), name)
    for name, folder in record.folders.items():
        client.log_artifacts(run_id, folder, artifact_path=name)
    if status == "RUNNING":
        if found.info.status != "RUNNING":
            client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status, end_time=moment)
        # Last: what is told by its result is told whole.
        if record.made:
            client.set_tag(run_id, MADE, record.made)
    return client.get_run(run_id)


def _key(parent: Any, record: StageRecord) -> str:
    return hash_bytes(f"{parent.info.run_id}/{record.stage}/{record.key}".encode())


def _is_told(found: Any, record: StageRecord) -> bool:
    return bool(found.data.tags.get(MADE) == record.made)


def _there(client: Any, parent: Any, record: StageRecord) -> Any:
    """The run of the same stage: the one with its key, else one that made the same."""
    experiment = parent.info.experiment_id
    if (found := by_key(client, experiment, _key(parent, record))) is not None:
        return found
    if not record.made:
        return None
    asked = (
        f"tags.`{PARENT}` = '{parent.info.run_id}' and tags.`{STAGE}` = '{record.stage}' "
        f"and tags.`{MADE}` = '{record.made}'"
    )
    found = client.search_runs([experiment], filter_string=asked, max_results=1)
    return found[0] if found else None
