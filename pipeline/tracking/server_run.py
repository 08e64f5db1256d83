"""Which of a tracking server's runs are this run folder's and its pipeline's: found again, or made.

In: MLflow's client (made by `server`), an address, a run folder. Out: the server's runs, and their ids in
`RUN/tracking.json`, an entry a server. What always holds: a run folder has one run on each server, below one parent,
whatever was confirmed and whatever died; a run that was deleted there is made anew; no password is written.

A pipeline is a parent run with a child a stage. One that has a name is found by it, from each stage's own command; one
without belongs to the run folder and has its name.

Example:
    find_or_create(client, uri, Path("RUNS/a"), experiment="bertpipe", tags={}, started=time.time()).run.info.run_id
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.lineage import hash_bytes
from pipeline.progress import say
from pipeline.tracking.run_page import PARENT, STAGE, page_address, parent_heading, without_secrets
from pipeline.tracking.server import exists_already, is_missing
from pipeline.tracking.spool import read_after

TRACKING = "tracking.json"
# The tag by which a run is found again whose creation the server never confirmed.
KEY = "bertpipe.key"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A training's run, and its pipeline's."""

    run: Any
    parent: Any


def find_or_create(
    client: Any,
    uri: str,
    run: Path,
    *,
    experiment: str,
    tags: Mapping[str, str],
    started: float,
    pipeline: str = "",
) -> Found:
    """The MLflow run of the folder `run` on the server at `uri`, and its parent.

    tags, started: for a new run; the latter in seconds since 1970
    pipeline: the name of the pipeline that it belongs to; empty: it is its own
    """
    path, server = str(run / TRACKING), without_secrets(uri)
    servers: dict[str, Any] = storage.read_json(path) if storage.exists(path) else {}
    known = servers.get(server, {"key": uuid.uuid4().hex})
    if "parent_key" not in known:
        # Written before it is asked for: a run whose creation was never confirmed is found by its key.
        known["parent_key"] = pipeline_key(pipeline) if pipeline else uuid.uuid4().hex
        servers[server] = known
        storage.write_json(path, servers)
    began = _beginning(run, started)
    found = unless_deleted(client, known["run_id"]) if "run_id" in known else None
    if found is None and "run_id" in known:
        say(f"warning: {server} has no run {known['run_id']} any more; this run is recorded there anew")
    number = (
        found.info.experiment_id
        if found is not None
        else experiment_id(client, uri, run.resolve().parent, experiment)
    )
    parent = unless_deleted(client, known["parent"]) if "parent" in known else None
    if parent is None or parent.info.experiment_id != number:
        parent = find_or_make_parent(client, number, known["parent_key"], pipeline or run.name, began)
    is_new = found is None
    if found is None:
        found = _find_or_make(client, number, known["key"], parent, tags, began)
    if found.data.tags.get(PARENT) != parent.info.run_id:
        # An earlier bertpipe's, or one whose parent was deleted.
        client.set_tag(found.info.run_id, PARENT, parent.info.run_id)
    now = known | {"experiment": number, "run_id": found.info.run_id, "parent": parent.info.run_id}
    if now != servers[server]:
        servers[server] = now
        storage.write_json(path, servers)
    if is_new and uri.startswith("http"):
        say(f"recorded at {page_address(server, number, found.info.run_id)}")
    return Found(run=found, parent=parent)


def pipeline_key(name: str) -> str:
    """The key of the parent of a pipeline that has a name."""
    return f"pipeline-{hash_bytes(name.encode())}"


def find_or_make_parent(client: Any, experiment: str, key: str, name: str, began: float) -> Any:
    """A pipeline's run. Of two stages that make it at once, one finds the other's."""
    if (found := by_key(client, experiment, key)) is not None:
        return found
    tags = {KEY: key, STAGE: "pipeline", **parent_heading(name)}
    made = client.create_run(experiment, run_name=name, start_time=int(began * 1000), tags=tags)
    first = by_key(client, experiment, key)
    if first is not None and first.info.run_id != made.info.run_id:
        client.delete_run(made.info.run_id)
        return first
    return made


def by_key(client: Any, experiment: str, key: str) -> Any:
    """The run that was made with `key`, the earliest where there are two; None where there is none."""
    found = client.search_runs([experiment], filter_string=f"tags.`{KEY}` = '{key}'")
    return min(found, key=lambda each: (each.info.start_time, each.info.run_id), default=None)


def unless_deleted(client: Any, run_id: str) -> Any:
    """The server's run; None where a person has deleted it, or the server has begun with an empty database."""
    try:
        found = client.get_run(run_id)
    except Exception as error:  # MLflow's own error; what it is about, it says by a code
        if not is_missing(error):
            raise
        return None
    return found if found.info.lifecycle_stage == "active" else None


def experiment_id(client: Any, uri: str, beside: Path, name: str) -> str:
    """The experiment's number; it is made where it isn't there.

    beside: the folder beside whose database the artefacts lie
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # The embedded database keeps its artefacts beside itself, wherever the command was started.
    location = (beside / "mlartifacts").resolve().as_uri() if uri.startswith("sqlite:") else None
    # What MLflow's pages call a training; otherwise they take it for prompts and traces.
    kind = {"mlflow.experimentKind": "custom_model_development"}
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=kind))
    except Exception as error:  # another run was quicker to make it
        if not exists_already(error):
            raise
        return str(client.get_experiment_by_name(name).experiment_id)


def _find_or_make(
    client: Any, experiment: str, key: str, parent: Any, tags: Mapping[str, str], began: float
) -> Any:
    if (found := by_key(client, experiment, key)) is not None:
        return found
    own = {KEY: key, STAGE: "pretrain", PARENT: parent.info.run_id, **tags}
    name = f"{parent.info.run_name}/pretrain"
    return client.create_run(experiment, run_name=name, start_time=int(began * 1000), tags=own)


def _beginning(run: Path, started: float) -> float:
    first = read_after(run, 0, limit=1)
    return min([started, *(line["time"] for line in first if "time" in line)])
