"""The one door to MLflow: a client of a tracking server or of a database file, and the values that it takes.

In: an address. Out: MLflow's client and its entities. What always holds: MLflow is imported when a client is asked for,
never before; one try a call, and none of them long; a database file appears whole; nothing is printed, and no password
is said.

Example:
    client = connect("sqlite:////data/RUNS/mlflow.db")
    client.log_batch(run_id, metrics=[metric("train/loss", 9.7, moment=1_700_000_000_000, step=1)])
"""

import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.policies import TrackingPolicy
from pipeline.tracking.run_page import without_secrets

_SQLITE = "sqlite:///"
# MLflow's own limit on one request.
_PARAMETERS_A_BATCH = 100
# One try a call, and none of them long: trying again is the sender's own business.
_CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # It would print addresses to standard output, which is for results; `server_run` says ours.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(policy: TrackingPolicy, run: Path) -> str:
    """Where a run is recorded: the recipe's word, $MLFLOW_TRACKING_URI, else `mlflow.db` beside the run."""
    return (
        policy.uri
        or os.environ.get("MLFLOW_TRACKING_URI")
        or f"{_SQLITE}{run.resolve().parent / 'mlflow.db'}"
    )


def connect(uri: str) -> Any:
    """MLflow's client for an address; a database file that isn't there is made."""
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    make_database(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_database(uri: str) -> None:
    """Make the SQLite file that `uri` names, where it is one and isn't there yet.

    Under another name until it is whole: MLflow fills it for a second or more, and one that a kill has cut short it
    would refuse ever after.
    """
    if not uri.startswith(_SQLITE) or "?" in uri or os.path.exists(uri.removeprefix(_SQLITE)):
        return
    from mlflow import MlflowClient

    path = Path(uri.removeprefix(_SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmp*"):
        if not os.path.exists(f"/proc/{left.name.removeprefix(f'.{path.name}.').partition('.')[0]}"):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    MlflowClient(tracking_uri=f"{_SQLITE}{temporary}").search_experiments(max_results=1)
    with suppress(FileExistsError):  # another run's was quicker
        os.link(temporary, path)
    temporary.unlink()


def metric(name: str, value: float, *, moment: int, step: int) -> Any:
    """A point of a curve; `moment` in milliseconds since 1970."""
    from mlflow.entities import Metric

    return Metric(name, float(value), moment, step)


def send_parameters(client: Any, run_id: str, there: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Give a run its parameters; MLflow refuses a second value, so what has changed becomes a tag `now.…`.

    there: those that it has
    """
    from mlflow.entities import Param

    new = [Param(key, value) for key, value in wanted.items() if key not in there]
    for start in range(0, len(new), _PARAMETERS_A_BATCH):
        client.log_batch(run_id, params=new[start : start + _PARAMETERS_A_BATCH])
    changed = {f"now.{key}": value for key, value in wanted.items() if there.get(key, value) != value}
    send_tags(client, run_id, changed)


def send_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Set a run's tags."""
    from mlflow.entities import RunTag

    items = [RunTag(key, value) for key, value in tags.items()]
    for start in range(0, len(items), _PARAMETERS_A_BATCH):
        client.log_batch(run_id, tags=items[start : start + _PARAMETERS_A_BATCH])


def send_datasets(client: Any, run_id: str, datasets: list[dict[str, Any]]) -> None:
    """Name what a run reads; a dataset that it has already is not named twice.

    datasets: as `datasets.describe` has them
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(**{name: value for name, value in dataset.items() if name != "tags"}),
            tags=[InputTag(key, value) for key, value in dataset["tags"].items()],
        )
        for dataset in datasets
    ]
    client.log_inputs(run_id, datasets=inputs)


def is_missing(error: Exception) -> bool:
    """Whether MLflow says by its code that what it was asked for isn't there."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def exists_already(error: Exception) -> bool:
    """Whether MLflow says by its code that another was quicker to make it."""
    return getattr(error, "error_code", "") == "RESOURCE_ALREADY_EXISTS"


def reason(error: Exception) -> str:
    """What went wrong, in a few words: of a connection's error, nested three deep, the innermost."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    innermost = re.search(r"Caused by \w+\([\"'](?:.*?\): )?(.*?)[\"']?\)\)", line)
    return without_secrets(innermost[1] if innermost else line)
