"""A pipeline's stages on record: one parent, one child a stage, however often a command is run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.corpus.manifest import read_manifest
from pipeline.tracking import stages
from pipeline.tracking.record import StageRecord
from pipeline.tracking.server_run import TRACKING, find_or_create, find_or_make_parent, pipeline_key
from pipeline.tracking.stages import record_below, recorded, recorded_shard, shard_record
from pipeline.tracking.tracker import PIPELINE


@pytest.fixture
def uri(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database that stages are recorded in, below the pipeline `mine`."""
    found = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found)
    monkeypatch.setenv(PIPELINE, "mine")
    monkeypatch.chdir(tmp_path)
    return found


def runs(uri: str) -> dict[str, Any]:
    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([each.experiment_id for each in client.search_experiments()])
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found), "a stage is recorded twice"
    return named


def test_a_stage_is_recorded_once_however_often_its_command_is_run(uri: str, shards: Path) -> None:
    manifest = read_manifest(str(shards))
    for _ in range(2):
        recorded_shard(str(shards), {"seed": 1}, lambda: manifest)
    found = runs(uri)
    assert set(found) == {"mine", "mine/shard"}
    stage = found["mine/shard"]
    assert stage.data.tags["mlflow.parentRunId"] == found["mine"].info.run_id
    assert stage.data.tags["bertpipe.shards"] == manifest.hash
    assert stage.data.params["max_seq_length"] == "64"
    assert stage.data.metrics["shards/pairs"] == manifest.counts["pairs"]
    assert stage.data.metrics["seconds"] >= 0
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    kept = MlflowClient(tracking_uri=uri).download_artifacts(stage.info.run_id, "manifest.json")
    assert json.loads(Path(kept).read_text())["vocabulary"] == manifest.vocabulary


def test_a_stage_that_was_cut_short_continues_in_its_run(uri: str, shards: Path) -> None:
    with pytest.raises(ZeroDivisionError), recorded("shard", output=str(shards), parameters={"seed": 1}):
        raise ZeroDivisionError
    first = runs(uri)["mine/shard"]
    assert first.info.status == "FAILED"
    recorded_shard(str(shards), {"seed": 1}, lambda: read_manifest(str(shards)))
    found = runs(uri)["mine/shard"]
    assert (found.info.run_id, found.info.status) == (first.info.run_id, "FINISHED")


def test_a_training_adds_no_stage_that_its_command_has_recorded(
    uri: str, shards: Path, tmp_path: Path
) -> None:
    """The shards lie elsewhere for it: another mount, another name."""
    manifest = read_manifest(str(shards))
    recorded_shard(str(shards), {"seed": 1}, lambda: manifest)
    client = MlflowClient(tracking_uri=uri)
    run = tmp_path / "RUNS" / "a"
    run.mkdir(parents=True)
    for _ in range(2):
        found = find_or_create(
            client, uri, run, experiment="bertpipe", tags={}, started=1.7e9, pipeline="mine"
        )
        stages.record_stage(client, found.parent, shard_record("/elsewhere", manifest), status="FINISHED")
    assert set(runs(uri)) == {"mine", "mine/shard", "mine/pretrain"}


def test_of_two_stages_that_make_their_pipeline_at_once_one_takes_the_others(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("bertpipe")
    key = pipeline_key("mine")
    honest = client.create_run
    others: list[Any] = []

    def slowly(*arguments: Any, **more: Any) -> Any:
        if not others:
            others.append(honest(*arguments, **more | {"start_time": 5}))
        return honest(*arguments, **more)

    monkeypatch.setattr(client, "create_run", slowly)
    found = find_or_make_parent(client, experiment, key, "mine", 1.7e9)
    assert found.info.run_id == others[0].info.run_id
    assert set(runs(uri)) == {"mine"}


def test_without_a_pipeline_nothing_is_recorded_and_nothing_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: Path
) -> None:
    monkeypatch.delenv(PIPELINE, raising=False)
    monkeypatch.setattr(stages.server, "connect", None)
    monkeypatch.chdir(tmp_path)
    recorded_shard(str(shards), {}, lambda: read_manifest(str(shards)))
    record = StageRecord(stage="evaluate", key="x", made="x")
    assert record_below(tmp_path, {}, record, started=1.7e9) is None
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_costs_a_stage_a_warning(
    uri: str, shards: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    away = "http://bob:hunter2@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", away)
    assert recorded_shard(str(shards), {}, lambda: read_manifest(str(shards)))
    (tmp_path / TRACKING).write_text(json.dumps({"http://127.0.0.1:9": {"parent": "p", "run_id": "r"}}))
    assert record_below(tmp_path, {}, StageRecord(stage="evaluate", key="x", made="x"), started=1.7e9) is None
    said = capfd.readouterr().err
    assert "warning: http://127.0.0.1:9 does not take this shard (" in said
    assert "warning: http://127.0.0.1:9 does not take this evaluate (" in said
    assert "hunter2" not in said
