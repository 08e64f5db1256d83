"""A run's data: several sources with weights, and data that changes in mid-run only where the user says so."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.manifest import read_manifest
from pipeline.recipe import read_recipe, recipe_from
from pipeline.release.card import model_card
from pipeline.training.checkpoints import read_checkpoint
from pipeline.training.metrics import read_metrics
from pipeline.training.plan import make_plan
from workshop import processes
from workshop.shard_folders import shard_small

pytestmark = pytest.mark.xdist_group("data change")


@pytest.fixture(scope="module")
def other_shards(shared_topics: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second source: another part of the corpus, the same vocabulary."""
    output = tmp_path_factory.mktemp("shards") / "other"
    return shard_small(shared_topics, output, vocab=str(shards / "vocab"), seed=5)


@pytest.fixture(scope="module")
def shared_topics(python_english: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = python_english.read_text(encoding="utf-8").split("\n\n")
    path = tmp_path_factory.mktemp("corpus") / "half.txt"
    path.write_text("\n\n".join(documents[: len(documents) // 2]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def strange_shards(shared_topics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of another vocabulary."""
    return shard_small(shared_topics, tmp_path_factory.mktemp("shards") / "strange", vocab_size=1500)


@pytest.mark.long
def test_a_mixture_trains_and_data_that_changes_in_mid_run_is_refused_or_recorded(
    recipe: dict[str, Any],
    write_recipe: Any,
    cli: Any,
    shards: Path,
    other_shards: Path,
    strange_shards: Path,
    tmp_path: Path,
) -> None:
    # MLflow takes no such name for a parameter.
    others = tmp_path / "others+more@home"
    others.symlink_to(other_shards)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run, phase = Path(recipe["run"]), recipe["phases"][0] | {"steps": 40}
    recipe["tracking"] = {"experiment": "changes", "uri": uri}
    recipe["checkpoint"] = {"every": 20, "keep_last": 2}

    def written(name: str, **changes: Any) -> Path:
        more = {"seed": changes.pop("seed", recipe["seed"])}
        path: Path = write_recipe(recipe | more | {"phases": [phase | changes]}, name)
        return path

    both = {str(shards): 3, str(others): 1}
    first = written("first.yaml", shards=both)
    begun = processes.begin(first, f"run={run}")
    processes.wait_for_checkpoint(run, 20, begun)
    processes.wait_for_step(run, 21, begun)
    processes.kill_all(run)
    said = begun.communicate()[0]
    assert f"phases.0 reads {shards} 75.0%, " in said
    assert "it is evaluated on 24 + 8 held-out pairs" in said
    hashes = [read_manifest(str(folder)).hash for folder in (shards, others)]
    mixed = f"3/4 of {hashes[0]} + 1/4 of {hashes[1]}"
    assert read_checkpoint(run / "checkpoints" / "latest").shards == [mixed]

    # What is data is refused with the way out.
    for name, change, complaint in (
        ("folder.yaml", {"shards": str(others)}, f"was begun on {mixed}"),
        ("weights.yaml", {"shards": {str(shards): 3, str(others): 1.0001}}, f"was begun on {mixed}"),
        ("batch.yaml", {"shards": both, "global_batch": 24}, "phases.0.global_batch: 24 here, 16 there"),
        ("seed.yaml", {"shards": both, "seed": 4}, "seed: 4 here, 3 there"),
    ):
        refused = cli("pretrain", written(name, **change))
        assert refused.returncode == 2
        assert complaint in refused.stderr
        assert "go on with --allow-data-change" in refused.stderr
    # What isn't, stays refused; so does another vocabulary, whose ids would mean other words.
    refused = cli("pretrain", first, "phases.0.learning_rate=0.5", "seed=9", "--allow-data-change")
    assert refused.returncode == 2
    assert "phases.0.learning_rate: 0.5 here" in refused.stderr
    assert "go on with" not in refused.stderr
    refused = cli("pretrain", written("strange.yaml", shards=str(strange_shards)), "--allow-data-change")
    assert refused.returncode == 2
    assert "was trained with vocabulary" in refused.stderr

    changed = written("changed.yaml", shards=str(others), global_batch=24, seed=4)
    done = cli("pretrain", changed, "--allow-data-change")
    assert done.returncode == 0, done.stderr
    changes = [
        "phases.0.global_batch: 24 here, 16 there",
        "seed: 4 here, 3 there",
        f"phases.0.shards: {hashes[1]} here, {mixed} there",
    ]
    assert f"warning: the data changes after step 20: {'; '.join(changes)}" in done.stderr
    assert [line["samples"] for line in read_metrics(run)] == [*range(16, 321, 16), *range(344, 801, 24)]
    info = read_checkpoint(run / "checkpoints" / "latest")
    lineage = json.loads((run / "lineage.json").read_text())
    for recorded in (info.data_changes, lineage["data_changes"]):
        assert recorded == [{"step": 20, "changes": changes}]
    assert info.shards == lineage["shards"] == [hashes[1]]
    assert f"| data changed after step 20 | {'; '.join(changes)} |" in model_card(info, "0", 0.0)

    # From here on it is the run's data: the flag is no more needed, and nothing is recorded twice.
    history = make_plan(read_recipe(str(changed)), 1).history
    assert (history.shards, list(history.data_changes)) == (tuple(info.shards), info.data_changes)
    assert not history.changes_now
    # Where no step is left, no record says that other data was read.
    refused = cli("pretrain", changed, "seed=9", "--allow-data-change")
    assert refused.returncode == 2
    assert "has no step left to train on other data" in refused.stderr
    assert json.loads((run / "lineage.json").read_text()) == lineage

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("changes").experiment_id
    (found,) = client.search_runs([experiment], "tags.`bertpipe.stage` = 'pretrain'")
    # The first start's, where it came so far before it was killed.
    assert found.data.params["phases.0.shards"] in (f"{shards}: 3, {others}: 1", str(others))
    assert found.data.tags["bertpipe.data_changes"] == f"after step 20: {'; '.join(changes)}"
    steps = [point.step for point in client.get_metric_history(found.info.run_id, "train/mlm_loss")]
    assert steps == list(range(1, 41))


def test_masks_by_words_that_the_shards_do_not_know_are_warned_of(
    recipe: dict[str, Any], shards: Path, tmp_path: Path
) -> None:
    chinese = tmp_path / "chinese"
    shutil.copytree(shards, chinese)
    path = chinese / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["language"] = "zh"
    path.write_text(json.dumps(manifest))

    def notes(folder: Path, **masking: Any) -> list[str]:
        phase = recipe["phases"][0] | {"shards": str(folder)}
        return make_plan(recipe_from(recipe | {"phases": [phase], "masking": masking}, "recipe"), 1).notes

    (warning,) = notes(chinese, strategy="whole_word")
    assert warning.startswith(f"warning: {chinese} was made without --words")
    assert notes(chinese) == notes(shards, strategy="whole_word") == []
    sources = {"books": {"language": "en", "words": None}, "wiki": {"language": "zh", "words": None}}
    manifest["settings"] = {"max_seq_length": 64, "words": None, "sources": sources}
    path.write_text(json.dumps(manifest))
    (warning,) = notes(chinese, strategy="whole_word")
    assert warning.startswith(f"warning: {chinese}'s source wiki was made without --words")
    recipe["objective"] = "ltr"
    (warning,) = notes(shards, strategy="whole_word")
    assert "masking plays no part" in warning
    assert notes(shards) == []
