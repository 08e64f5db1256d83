"""A run's data: several sources with weights, and data that changes in mid-run only where the user says so."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.manifest import read_manifest
from pipeline.recipe import recipe_from
from pipeline.training.checkpoints import read_checkpoint
from pipeline.training.metrics import read_metrics
from pipeline.training.plan import make_plan
from workshop import processes

pytestmark = pytest.mark.xdist_group("data change")


@pytest.fixture(scope="module")
def other_shards(shared_topics: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second source: another part of the corpus, the same vocabulary."""
    from pipeline.corpus.sharding import ShardConfig, run

    output = tmp_path_factory.mktemp("shards") / "other"
    run(
        ShardConfig(
            corpus=(str(shared_topics),),
            output=str(output),
            vocab=str(shards / "vocab"),
            max_seq_length=64,
            workers=1,
            validation_fraction=0.1,
            seed=5,
        )
    )
    return output


@pytest.fixture(scope="module")
def shared_topics(python_english: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = python_english.read_text(encoding="utf-8").split("\n\n")
    path = tmp_path_factory.mktemp("corpus") / "half.txt"
    path.write_text("\n\n".join(documents[: len(documents) // 2]) + "\n", encoding="utf-8")
    return path


@pytest.mark.long
def test_a_mixture_trains_and_resumes_to_the_last_bit(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, shards: Path, other_shards: Path
) -> None:
    phase = recipe["phases"][0] | {"shards": {str(shards): 3, str(other_shards): 1}, "steps": 10}
    path = write_recipe(recipe | {"phases": [phase]})
    run, broken = Path(recipe["run"]), Path(recipe["run"]).with_name("broken")
    whole = cli("pretrain", path)
    assert whole.returncode == 0, whole.stderr
    assert f"phases.0 reads {shards} 75.0%, " in whole.stderr
    begun = processes.begin(path, f"run={broken}")
    processes.wait_for_step(broken, 7, begun)
    processes.kill_all(broken)
    begun.communicate()
    assert cli("pretrain", path, f"run={broken}", "--ranks", 1).returncode == 0
    assert processes.learned(broken) == processes.learned(run)
    first, second = (read_manifest(str(folder)).hash for folder in (shards, other_shards))
    assert read_checkpoint(run / "checkpoints" / "latest").shards == [f"0.75 of {first} + 0.25 of {second}"]
    # Held-out pairs of both: 24 and 8 of the 32 that the recipe asks for.
    assert read_metrics(run)[-1]["held_out_mlm_loss"] > 0


@pytest.mark.long
def test_data_that_changes_in_mid_run_is_refused_or_recorded(
    recipe: dict[str, Any],
    write_recipe: Any,
    cli: Any,
    shards: Path,
    other_shards: Path,
    shared_topics: Path,
    tmp_path: Path,
) -> None:
    database = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    recipe["tracking"] = {"experiment": "changes"}
    run, phase = Path(recipe["run"]), recipe["phases"][0]
    begun = write_recipe(recipe | {"phases": [phase | {"steps": 5}]})
    assert cli("pretrain", begun, database).returncode == 0
    for change, complaint in (
        ({"shards": str(other_shards)}, f"{run} was begun on {read_manifest(str(shards)).hash}"),
        ({"global_batch": 24}, "lanes is 8" if 24 % 8 else "phases.0.global_batch: 24 here, 16 there"),
    ):
        changed = write_recipe(recipe | {"phases": [phase | {"steps": 5} | change]}, "changed.yaml")
        refused = cli("pretrain", changed, database)
        assert refused.returncode == 2
        assert complaint in refused.stderr
        assert "go on with --allow-data-change" in refused.stderr
    # What isn't data stays refused.
    refused = cli("pretrain", begun, database, "phases.0.learning_rate=0.5", "seed=9", "--allow-data-change")
    assert refused.returncode == 2
    assert "phases.0.learning_rate: 0.5 here" in refused.stderr
    assert "--allow-data-change" not in refused.stderr
    second = phase | {"shards": str(other_shards), "global_batch": 24, "steps": 3, "warmup_steps": 0}
    both = write_recipe(
        recipe | {"seed": 4, "phases": [phase | {"steps": 5, "shards": str(other_shards)}, second]},
        "both.yaml",
    )
    assert cli("pretrain", both, database).returncode == 2
    done = cli("pretrain", both, database, "--allow-data-change")
    assert done.returncode == 0, done.stderr
    hashes = [read_manifest(str(folder)).hash for folder in (shards, other_shards)]
    changes = ["seed: 4 here, 3 there", f"phases.0.shards: {hashes[1]} here, {hashes[0]} there"]
    assert f"warning: the data changes after step 5: {'; '.join(changes)}" in done.stderr
    lineage = json.loads((run / "lineage.json").read_text())
    assert lineage["data_changes"] == [{"step": 5, "changes": changes}]
    assert lineage["shards"] == [hashes[1], hashes[1]]
    assert [line["step"] for line in read_metrics(run)] == list(range(1, 9))
    # Another vocabulary's ids would mean other words.
    strange = tmp_path / "strange"
    made = cli("shard", shared_topics, "-o", strange, "--vocab-size", 1500, "--max-seq-length", 64,
               "--validation-fraction", 0.1)  # fmt: skip
    assert made.returncode == 0, made.stderr
    refused = cli("pretrain", both, database, f"phases.0.shards={strange}", f"phases.1.shards={strange}",
                  "--allow-data-change")  # fmt: skip
    assert refused.returncode == 2
    assert "was trained with vocabulary" in refused.stderr
    # From here on it is the run's data: the flag is no more needed, and nothing is recorded twice.
    again = cli("pretrain", both, database)
    assert again.returncode == 0, again.stderr
    assert json.loads((run / "lineage.json").read_text()) == lineage
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("changes").experiment_id])
    assert found.data.tags["bertpipe.data_change"] == f"after step 5: {'; '.join(changes)}"


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
