"""Which of a tracking server's runs is this run folder's: found again, or made.

In: MLflow's client (made by `tracking`), an address, a run folder. Out: the server's run, and its id in
`RUN/tracking.json`, an entry a server. What always holds: a run folder has one run on each server, whatever was
confirmed and whatever died; a run that was deleted there is made anew; no password is written.

Example:
    find_or_create(client, uri, Path("RUNS/a"), experiment="bertpipe", tags={}, started=time.time()).info.run_id
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.progress import say
from pipeline.training.metrics import read_after
from pipeline.training.run_page import page_address, without_secrets

TRACKING = "tracking.json"
# The tag by which a run is found again whose creation the server never confirmed.
_KEY = "bertpipe.key"


def find_or_create(
    client: Any, uri: str, run: Path, *, experiment: str, tags: Mapping[str, str], started: float
) -> Any:
    """The MLflow run of the folder `run` on the server at `uri`.

    tags, started: for a new run; the latter in seconds since 1970
    """
    path, server = str(run / TRACKING), without_secrets(uri)
    servers: dict[str, Any] = storage.read_json(path) if storage.exists(path) else {}
    if server not in servers:
        # Written before it is asked for: a run whose creation was never confirmed is found by its key.
        servers[server] = {"key": uuid.uuid4().hex}
        storage.write_json(path, servers)
    known = servers[server]
    if "run_id" in known:
        if (found := _unless_deleted(client, known["run_id"])) is not None:
            return found
        say(f"warning: {server} has no run {known['run_id']} any more; this run is recorded there anew")
    number = _experiment_id(client, uri, run, experiment)
    orphans = client.search_runs([number], filter_string=f"tags.`{_KEY}` = '{known['key']}'")
    found = orphans[0] if orphans else _create(client, number, run, {_KEY: known["key"], **tags}, started)
    servers[server] = known | {"experiment": number, "run_id": found.info.run_id}
    storage.write_json(path, servers)
    if uri.startswith("http"):
        say(f"recorded at {page_address(server, number, found.info.run_id)}")
    return found


def _unless_deleted(client: Any, run_id: str) -> Any:
    """The server's run; None where a person has deleted it, or the server has begun with an empty database."""
    try:
        found = client.get_run(run_id)
    except Exception as error:  # MLflow's own error; what it is about, it says by a code
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return found if found.info.lifecycle_stage == "active" else None


def _create(client: Any, experiment: str, run: Path, tags: Mapping[str, str], started: float) -> Any:
    first = read_after(run, 0, limit=1)
    began = min([started, *(line["time"] for line in first if "time" in line)])
    return client.create_run(experiment, run_name=run.name, start_time=int(began * 1000), tags=tags)


def _experiment_id(client: Any, uri: str, run: Path, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # The embedded database keeps its artefacts beside itself, wherever the command was started.
    beside = (run.resolve().parent / "mlartifacts").as_uri()
    location = beside if uri.startswith("sqlite:") else None
    # What MLflow's pages call a training; otherwise they take it for prompts and traces.
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(name, artifact_location=location, tags=kind))
