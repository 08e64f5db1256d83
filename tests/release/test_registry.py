"""A checkpoint's evaluation and conversion on record, and its model in the registry: once, with its lineage."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from pipeline.errors import InputError, RunFailed
from pipeline.release.convert import ConvertConfig
from pipeline.release.convert import run as convert
from pipeline.training.evaluate import EvaluateConfig
from pipeline.training.evaluate import run as evaluate
from workshop.recipes import small_recipe

pytestmark = pytest.mark.xdist_group("registry")


@pytest.fixture(scope="module")
def road(
    shards: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory, cli: Any
) -> tuple[Path, list[str]]:
    """A run on record, evaluated once, converted and registered twice, and what was said."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "RUNS").mkdir()
    shutil.copy(empty_database, folder / "RUNS" / "mlflow.db")
    recipe = small_recipe(folder / "RUNS" / "a", shards, steps=2, warmup_steps=1)
    recipe |= {"tracking": {"experiment": "tests"}, "evaluate": {"every": 0}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = cli("pretrain", "recipe.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    latest = folder / "RUNS/a/checkpoints/latest"
    evaluate(EvaluateConfig(checkpoint=latest, shards=str(shards), sequences=16))
    asked = [ConvertConfig(checkpoint=latest, output=folder / name, register="mine") for name in ("M1", "M2")]
    return folder, [convert(each).registered for each in asked]


def children(folder: Path) -> tuple[MlflowClient, dict[str, Any]]:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/RUNS/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found)
    return client, named


def test_the_pipeline_has_a_child_a_stage(road: Any) -> None:
    folder, _ = road
    _, found = children(folder)
    assert sorted(found) == ["a", "a/convert", "a/evaluate", "a/pretrain", "a/shard", "a/vocab"]
    assert found["a/evaluate"].data.metrics["held_out/mlm_loss"] > 0
    assert found["a/evaluate"].data.params["step"] == "2"
    assert found["a/convert"].data.metrics["proof/largest_logit_difference"] < 1e-4
    assert all(run.info.status == "FINISHED" for run in found.values())


def test_the_same_model_is_one_version_with_its_lineage(road: Any, shards: Path) -> None:
    folder, said = road
    client, found = children(folder)
    assert said == ["registered as mine version 1", "mine version 1 holds this model already"]
    (version,) = client.search_model_versions("name = 'mine'")
    manifest = json.loads((shards / "manifest.json").read_text())
    assert version.tags["bertpipe.vocabulary"] == manifest["vocabulary"]["hash"]
    assert version.tags["bertpipe.corpus"] == manifest["corpus"]["fingerprint"]
    assert version.tags["bertpipe.shards.0"] == found["a/pretrain"].data.tags["bertpipe.shards.0"]
    assert version.tags["bertpipe.step"] == "2"
    assert version.run_id == found["a/convert"].info.run_id
    assert version.description.startswith("# BERT, 2 layers")


def test_the_registered_model_is_what_was_converted(road: Any) -> None:
    from transformers import AutoModelForPreTraining

    folder, _ = road
    client, found = children(folder)
    kept = Path(client.download_artifacts(found["a/convert"].info.run_id, "model"))
    assert {path.name for path in kept.iterdir()} == {path.name for path in (folder / "M1").iterdir()}
    assert AutoModelForPreTraining.from_pretrained(kept).num_parameters() > 0


def test_what_cannot_be_registered_is_refused_before_the_work(road: Any, tmp_path: Path) -> None:
    folder, _ = road
    latest = folder / "RUNS/a/checkpoints/latest"
    for name in ("", "a/b", "a'b"):
        with pytest.raises(InputError, match="a model's name is not empty"):
            ConvertConfig(checkpoint=latest, output=tmp_path / "M", register=name)
    with pytest.raises(InputError, match="does not go with --no-track"):
        ConvertConfig(checkpoint=latest, output=tmp_path / "M", register="mine", track=False)


def test_a_registry_that_is_away_fails_the_command_in_one_line_and_leaves_the_model(
    road: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = road
    latest = folder / "RUNS/a/checkpoints/latest"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    asked = ConvertConfig(checkpoint=latest, output=tmp_path / "M", register="mine")
    with pytest.raises(InputError, match=r"is on record at http://127.0.0.1:9"):
        convert(asked)
    assert not (tmp_path / "M").exists()
    known = json.loads((folder / "RUNS/a/tracking.json").read_text())
    away = known | {"http://127.0.0.1:9": next(iter(known.values()))}
    (folder / "RUNS/a/tracking.json").write_text(json.dumps(away))
    try:
        with pytest.raises(RunFailed, match=r"http://127.0.0.1:9 does not register mine .* is whole"):
            convert(asked)
    finally:
        (folder / "RUNS/a/tracking.json").write_text(json.dumps(known))
    assert (tmp_path / "M" / "config.json").exists()
