"""A converted model on record: its conversion as a stage, and a version in the tracking server's registry.

In: a model folder, the checkpoint's own record, the run folder. Out: a child run of the pipeline with the card; where
it is asked for, the model's files below it and a version of a registered model that names them, with its lineage as
tags. What always holds: the same content is registered once under a name; a version exists only when all its files
lie there.

Example:
    register("legal-bert", Path("MODELS/legal"), Path("RUNS/legal"), info, record, started=time.time())
"""

import re
from pathlib import Path
from typing import Any

from pipeline import lineage, storage
from pipeline.errors import BertpipeError, InputError, RunFailed
from pipeline.policies import TrackingPolicy
from pipeline.tracking import server
from pipeline.tracking.record import StageRecord
from pipeline.tracking.run_page import without_secrets
from pipeline.tracking.server_run import TRACKING, unless_deleted
from pipeline.tracking.stage_run import record_stage
from pipeline.tracking.stages import known_pipeline
from pipeline.training.checkpoints import CheckpointInfo

CARD, WEIGHTS = "README.md", "model.safetensors"
_FILES = "model"
_CONTENT = "bertpipe.model"
_AGAIN = "run `bertpipe convert … --register` again, into another folder"


def check_model_name(name: str, *, track: bool) -> None:
    """Raise InputError where no model can be registered under `name`, or nothing is to be recorded at all."""
    if not name.strip() or re.search(r"[/:'\"]", name):
        raise InputError(
            f"--register is {name!r}; a model's name is not empty and has no slash, colon or quote"
        )
    if not track:
        raise InputError("--register does not go with --no-track: a version names the run that made it")


def check_registry(run: Path, tracking: dict[str, Any], checkpoint: Path) -> tuple[str, str]:
    """Where the run folder is on record, and its pipeline's run.

    Raises InputError where it is on record nowhere.
    """
    known = known_pipeline(run, tracking)
    if known is None:
        uri = without_secrets(server.tracking_uri(TrackingPolicy(**tracking), run))
        raise InputError(
            f"--register: {checkpoint} belongs to no run that is on record at {uri} (there is no entry in "
            f"{run / TRACKING}); train with tracking, or set MLFLOW_TRACKING_URI as it was then"
        )
    return known


def conversion_record(
    folder: Path, info: CheckpointInfo, identity: str, parameters: int, largest_difference: float
) -> StageRecord:
    """What is told of a conversion; `identity` is the hash of the checkpoint's own record."""
    card = (folder / CARD).read_text(encoding="utf-8")
    return StageRecord(
        stage="convert",
        key=identity,
        made=identity,
        parameters={"step": info.step, "output": str(folder), "checkpoint": identity},
        tags={_CONTENT: content_hash(folder), **lineage_tags(info, identity)},
        metrics={"parameters": parameters, "proof/largest_logit_difference": largest_difference},
        step=info.step,
        texts={CARD: card, "config.json": (folder / "config.json").read_text(encoding="utf-8")},
        note=_without_front_matter(card),
    )


def lineage_tags(info: CheckpointInfo, identity: str) -> dict[str, str]:
    """What the model was made from, by hash."""
    shards = {f"bertpipe.shards.{index}": content for index, content in enumerate(info.shards)}
    return {
        "bertpipe.checkpoint": identity,
        "bertpipe.step": str(info.step),
        "bertpipe.vocabulary": str(info.vocabulary["hash"]),
        **shards,
    }


def content_hash(folder: Path) -> str:
    """The hash of what a model folder holds but for the card, which says where it came from."""
    from safetensors import safe_open

    parts: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.name == WEIGHTS:
            # By tensor: of equal ones the file's head may differ in order.
            with safe_open(path, "numpy") as file:
                parts |= {name: _tensor_hash(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        elif path.is_file() and path.name != CARD:
            parts[path.name] = storage.hash_file(str(path))
    return lineage.hash_json(parts)


def _tensor_hash(tensor: Any) -> list[str]:
    return [str(tensor.dtype), str(tensor.shape), lineage.hash_bytes(tensor.tobytes())]


def register(
    name: str, folder: Path, run: Path, info: CheckpointInfo, record: StageRecord, *, started: float
) -> str:
    """Record the conversion with the model's files, and register them as a version; what became of it, in words.

    Raises RunFailed where the server doesn't take it; the model folder stays.
    """
    uri, parent_id = check_registry(run, info.recipe["tracking"], folder)
    where = without_secrets(uri)
    try:
        client = server.connect(uri)
        parent = unless_deleted(client, parent_id)
        if parent is None:
            raise RunFailed(f"{where} has no run {parent_id} any more; {folder} is whole, and not registered")
        content = record.tags[_CONTENT]
        if (version := _registered(client, name, content)) is not None:
            return f"{name} version {version} holds this model already"
        found = record_stage(client, parent, record, status="FINISHED", started=started)
        client.log_artifacts(found.info.run_id, str(folder), artifact_path=_FILES)
        _make_name(client, name)
        made = client.create_model_version(
            name,
            f"{found.info.artifact_uri.rstrip('/')}/{_FILES}",
            run_id=found.info.run_id,
            tags={**record.tags, "bertpipe.corpus": _corpus_of(client, run, where)},
            description=record.note,
        )
    except BertpipeError:
        raise
    except Exception as error:  # a server, a network, a database: MLflow has no error type for all of them
        raise RunFailed(
            f"{where} does not register {name} ({server.reason(error)}); {folder} is whole: {_AGAIN}"
        ) from error
    return f"registered as {name} version {made.version}"


def _registered(client: Any, name: str, content: str) -> str | None:
    """The version of a registered model that holds the same files."""
    try:
        found = client.search_model_versions(f"name = '{name}'")
    except Exception as error:
        if not server.is_missing(error):
            raise
        return None
    return next((str(each.version) for each in found if each.tags.get(_CONTENT) == content), None)


def _make_name(client: Any, name: str) -> None:
    try:
        client.create_registered_model(name)
    except Exception as error:
        if not server.exists_already(error):
            raise


def _corpus_of(client: Any, run: Path, server_name: str) -> str:
    """The fingerprint of the corpus, as the training's run has it."""
    known = storage.read_json(str(run / TRACKING))[server_name]
    trained = unless_deleted(client, known["run_id"])
    return str(trained.data.tags.get("bertpipe.corpus", "not known")) if trained is not None else "not known"


def _without_front_matter(card: str) -> str:
    return card.split("---\n", 2)[-1].strip()
