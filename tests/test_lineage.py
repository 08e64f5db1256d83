"""Law 8: from a model back to its corpus, each artefact names by hash what it was made from."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from pipeline import storage
from pipeline.corpus.manifest import read_manifest
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.release.convert import ConvertConfig
from pipeline.release.convert import run as convert
from workshop.shard_folders import list_other_shards

# One test process makes the road, once.
pytestmark = pytest.mark.xdist_group("lineage")


@pytest.fixture(scope="module")
def road(python_english: Path, cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every artefact of one road: VOCAB, SHARDS, RUN, MODEL."""
    folder = tmp_path_factory.mktemp("road")
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "run": "RUN",
                "model": {"preset": "tiny", "hidden_size": 32, "intermediate_size": 64},
                "phases": [
                    {"shards": "SHARDS", "sequence_length": 64, "global_batch": 8, "micro_batch": 8}
                    | {"steps": 2, "learning_rate": 1e-3}
                ],
                "evaluate": {"every": 1, "sequences": 16},
            }
        )
    )
    for command in (
        f"vocab {python_english} -o VOCAB --size 2000",
        f"shard {python_english} --vocab VOCAB -o SHARDS --max-seq-length 64 --validation-fraction 0.1",
        "pretrain recipe.yaml",
    ):
        done = cli(*command.split(), cwd=folder)
        assert done.returncode == 0, done.stderr
    checkpoint = folder / "RUN" / "checkpoints" / "latest"
    convert(ConvertConfig(checkpoint=checkpoint, output=folder / "MODEL"))
    return folder


def test_every_artefact_names_what_it_was_made_from(road: Path) -> None:
    vocabulary = load_vocabulary(str(road / "VOCAB"))
    vocabulary_lineage = json.loads((road / "VOCAB" / "lineage.json").read_text())
    manifest = read_manifest(str(road / "SHARDS"))
    run = json.loads((road / "RUN" / "lineage.json").read_text())
    checkpoint = road / "RUN" / "checkpoints" / "latest"
    trained = json.loads((checkpoint / "checkpoint.json").read_text())

    assert vocabulary_lineage["vocabulary"]["hash"] == vocabulary.hash
    assert vocabulary_lineage["corpus"]["fingerprint"] == manifest.corpus["fingerprint"]
    assert manifest.vocabulary["hash"] == vocabulary.hash
    assert run["shards"] == trained["shards"] == [manifest.hash]
    assert run["vocabulary"]["hash"] == trained["vocabulary"]["hash"] == vocabulary.hash
    assert trained["recipe"]["phases"][0]["shards"] == "SHARDS"
    with safe_open(road / "MODEL" / "model.safetensors", "pt") as weights:
        identity = weights.metadata()["bertpipe.checkpoint"]
    assert identity == storage.hash_file(str(checkpoint / "checkpoint.json"))
    card = (road / "MODEL" / "README.md").read_text()
    for value in (identity, manifest.hash, vocabulary.hash):
        assert value in card
    assert load_vocabulary(str(road / "MODEL")).hash == vocabulary.hash


def test_the_tracked_run_carries_the_hashes_as_tags(road: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{road / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "bertpipe"]
    (run,) = client.search_runs([experiment.experiment_id], "tags.`bertpipe.stage` = 'pretrain'")
    manifest = read_manifest(str(road / "SHARDS"))
    assert run.data.tags["bertpipe.shards.0"] == manifest.hash
    assert run.data.tags["bertpipe.vocabulary"] == manifest.vocabulary["hash"]
    assert run.data.tags["bertpipe.corpus"] == manifest.corpus["fingerprint"]


@pytest.mark.parametrize(
    ("command", "changed"),
    [
        # Shards under a vocabulary that is another one by now.
        ("pretrain recipe.yaml run=NEW", "SHARDS/vocab/vocab.txt"),
        # A checkpoint on shards of another vocabulary.
        ("evaluate RUN/checkpoints/latest --shards SHARDS", "SHARDS/manifest.json"),
        # A run whose shards are others by now.
        ("pretrain recipe.yaml", "SHARDS/manifest.json:hash"),
        # A checkpoint whose vocabulary was exchanged.
        ("convert RUN/checkpoints/latest -o OTHER", "RUN/checkpoints/latest/vocab/vocab.txt"),
    ],
)
def test_a_broken_link_is_refused_with_both_values(road: Path, cli: Any, command: str, changed: str) -> None:
    name, _, key = changed.partition(":")
    path = road / name
    before = path.read_text()
    index = (road / "SHARDS" / "index.arrow").read_bytes()
    siblings = {p: p.read_text() for p in path.parent.glob("tokenizer.json")}
    if name.endswith("vocab.txt"):
        # Of equal length, so that nothing but the content tells.
        path.write_text(before.replace("\n[MASK]\n", "\nMASK~~\n") if "RUN" in name else before + "~~~\n")
        for sibling in () if "RUN" in name else siblings:
            sibling.unlink()
    elif key:
        list_other_shards(path.parent, lambda tars: [replace(tars[0], **{key: "0" * 32}), *tars[1:]])
    else:
        manifest = json.loads(before)
        manifest["vocabulary"]["hash"] = "0" * 32
        path.write_text(json.dumps(manifest))
    try:
        refused = cli(*command.split(), cwd=road)
    finally:
        path.write_text(before)
        (road / "SHARDS" / "index.arrow").write_bytes(index)
        for sibling, text in siblings.items():
            sibling.write_text(text)
    assert refused.returncode in (1, 2), refused.stderr
    assert len(set(re.findall(r"\b[0-9a-f]{32}\b", refused.stderr))) == 2, refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    # Mended, it passes: the control.
    control = command.replace("NEW", "CONTROL").replace("OTHER", "CONTROLMODEL")
    assert cli(*control.split(), cwd=road).returncode == 0
