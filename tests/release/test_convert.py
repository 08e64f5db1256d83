"""Laws 8 and 9: what leaves the house is the network that was trained, and says what it is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForPreTraining

from model.config import ModelConfig
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.errors import InputError, RunFailed
from pipeline.release.convert import ConvertConfig, run
from pipeline.storage import hash_file
from pipeline.training.checkpoints import load_network, read_checkpoint
from pipeline.training.evaluate import EvaluateConfig, LabelCounts, evaluate, unigram_loss
from pipeline.training.evaluate import run as run_evaluate
from pipeline.training.metrics import read_metrics
from workshop.recipes import small_recipe

# One test process trains the checkpoints, once.
pytestmark = pytest.mark.xdist_group("convert")
MODEL_FILES = {
    "README.md", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.txt",
}  # fmt: skip


@pytest.fixture(scope="session", params=[("zero0", 1), ("zero1", 2)], ids=["zero0", "zero1 on 2 ranks"])
def checkpoint(request: pytest.FixtureRequest, shards: Path, cli: Any, tmp_path_factory: Any) -> Path:
    """A checkpoint of six steps, of each ZeRO stage."""
    stage, ranks = request.param
    folder = tmp_path_factory.mktemp(stage)
    recipe = small_recipe(folder / "run", shards, micro_batch=8, steps=6, warmup_steps=0)
    recipe |= {"deepspeed": stage, "evaluate": {"every": 6, "sequences": 10_000}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = cli("pretrain", folder / "recipe.yaml", "--ranks", ranks)
    assert done.returncode == 0, done.stderr
    return folder / "run" / "checkpoints" / "latest"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint, to be spoilt."""
    return Path(shutil.copytree(checkpoint.resolve(), tmp_path / "copy"))


def test_transformers_loads_the_folder_and_gives_the_networks_logits(
    checkpoint: Path, tmp_path: Path
) -> None:
    proof = run(ConvertConfig(checkpoint=checkpoint, output=tmp_path / "model"))
    assert proof.largest_difference < 1e-4
    assert {path.name for path in (tmp_path / "model").iterdir()} == MODEL_FILES
    theirs, loading = BertForPreTraining.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    # The decoder is tied still.
    assert theirs.cls.predictions.decoder.weight is theirs.bert.embeddings.word_embeddings.weight
    ours = load_network(checkpoint, read_checkpoint(checkpoint))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    given = tokenizer("A list is mutable.", "Tuples are not.", return_tensors="pt")
    length = given["input_ids"].shape[1]
    with torch.no_grad():
        answer = theirs.eval()(**given)
        hidden_TH, pooled_BH = ours.encode(
            given["input_ids"][0], given["token_type_ids"][0], torch.arange(length),
            torch.tensor([0, length], dtype=torch.int32), length,
        )  # fmt: skip
        torch.testing.assert_close(
            ours.mlm_logits(hidden_TH, torch.arange(length)), answer.prediction_logits[0], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            ours.nsp_logits(pooled_BH), answer.seq_relationship_logits, atol=1e-4, rtol=0
        )
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "model") is not None


def test_the_tokenizer_that_leaves_is_the_one_that_was_trained_with(checkpoint: Path, tmp_path: Path) -> None:
    run(ConvertConfig(checkpoint=checkpoint, output=tmp_path / "model"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    ours = load_vocabulary(str(tmp_path / "model"))
    assert ours.hash == read_checkpoint(checkpoint).vocabulary["hash"]
    for text in ("A Straße in 北京, é!", "unaffable [MASK] words", ""):
        assert theirs(text)["input_ids"] == ours.tokenizer.encode(text).ids
    assert (theirs.mask_token_id, theirs.pad_token_id) == (ours.mask_id, ours.pad_id)
    assert theirs.model_max_length == 512


def test_the_card_tells_the_models_lineage_and_figures(checkpoint: Path, tmp_path: Path) -> None:
    run(ConvertConfig(checkpoint=checkpoint, output=tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    info = read_checkpoint(checkpoint)
    identity = hash_file(str(checkpoint / "checkpoint.json"))
    for fact in (
        identity,
        info.vocabulary["hash"],
        info.shards[0],
        f"{info.held_out['mlm_loss']:.4f}",
        "fill-mask",
    ):
        assert fact in card
    _, front, _ = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"


def test_evaluation_of_a_checkpoint_repeats_the_runs_own_held_out_figures(
    checkpoint: Path, shards: Path
) -> None:
    result = run_evaluate(EvaluateConfig(checkpoint=checkpoint, shards=str(shards)))
    line = read_metrics(checkpoint.parents[1])[-1]
    for name in ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"):
        assert result[name] == pytest.approx(line[f"held_out_{name}"], rel=1e-5)
    assert result["step"] == 6
    # A network of six steps is worse than counting words, and not by little.
    assert result["mlm_loss"] > result["unigram_mlm_loss"] > 3


def test_evaluation_prints_for_people_and_machines(checkpoint: Path, shards: Path, cli: Any) -> None:
    told = cli("evaluate", checkpoint, "--shards", shards, "--sequences", 40)
    assert told.returncode == 0, told.stderr
    assert "40 held-out pairs" in told.stdout
    assert "unigram baseline" in told.stdout
    value = json.loads(cli("evaluate", checkpoint, "--shards", shards, "--sequences", 40, "--json").stdout)
    assert value["sequences"] == 40


def test_an_output_that_is_taken_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        run(ConvertConfig(checkpoint=checkpoint, output=tmp_path / "model"))
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "thesis.txt"]


def test_a_damaged_checkpoint_is_named_and_nothing_is_made(copy: Path, tmp_path: Path) -> None:
    path = copy / "engine" / "mp_rank_00_model_states.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunFailed, match=r"bytes, .* were written"):
        run(ConvertConfig(checkpoint=copy, output=tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_weights_that_are_not_the_engines_fail_the_proof(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.training import checkpoints

    honest = checkpoints.read_weights

    def altered(folder: Path) -> dict[str, torch.Tensor]:
        weights = honest(folder)
        weights["nsp_head.dense.weight"] = weights["nsp_head.dense.weight"] + 0.1
        return weights

    monkeypatch.setattr(checkpoints, "read_weights", altered)
    with pytest.raises(RunFailed, match="differ from the engine's"):
        run(ConvertConfig(checkpoint=copy, output=tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_what_is_no_checkpoint_is_named(checkpoint: Path, tmp_path: Path, cli: Any) -> None:
    for path, hint in ((checkpoint.parents[1], "did you mean"), (tmp_path / "none", "does not exist")):
        refused = cli("convert", path, "-o", tmp_path / "model")
        assert refused.returncode == 2
        assert hint in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_shards_of_another_vocabulary_are_refused(checkpoint: Path, shards: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(shards, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["vocabulary"]["hash"] = "f" * 32
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="f" * 32):
        run_evaluate(EvaluateConfig(checkpoint=checkpoint, shards=str(other)))


def test_a_network_that_knows_the_answers_reaches_zero_loss(shards: Path) -> None:
    """`evaluate` counts what it should: an oracle has loss 0 and accuracy 1, and is called in eval mode."""
    from pipeline.batches.held_out import held_out_micro_batches
    from pipeline.batches.masking import MaskingConfig
    from pipeline.batches.special_ids import SpecialIds
    from pipeline.corpus.manifest import read_manifest

    manifest = read_manifest(str(shards))
    vocabulary = load_vocabulary(str(shards / "vocab"))
    batches = list(
        held_out_micro_batches(
            str(shards), manifest, sequences=50, micro_batch=8, masking=MaskingConfig(),
            special=SpecialIds.of(vocabulary), seed=1,
        )
    )  # fmt: skip

    class Oracle:
        training = True

        def eval(self) -> None:
            self.training = False

        def train(self, mode: bool) -> None:
            self.training = mode

        def __call__(self, **given: Any) -> list[torch.Tensor]:
            assert not self.training
            correct = (given["masked_labels_M"] >= 0).sum(), (given["next_labels_B"] >= 0).sum()
            return [torch.tensor(0.0), torch.tensor(0.0), *correct]

    oracle = Oracle()
    result = evaluate(oracle, batches, "cpu")
    assert (result["mlm_loss"], result["mlm_accuracy"], result["nsp_accuracy"]) == (0.0, 1.0, 1.0)
    assert oracle.training
    counted = LabelCounts(vocabulary.size)
    assert sum(batch.sequences for batch in counted.of(batches)) == 50
    nats = unigram_loss(str(shards), manifest, counted.labels)
    assert 3 < nats < torch.log(torch.tensor(float(vocabulary.size)))


def test_the_checkpoints_model_is_the_recipes(checkpoint: Path) -> None:
    info = read_checkpoint(checkpoint)
    assert ModelConfig(**info.model).hidden_size == 64
    assert info.samples == 6 * 16
