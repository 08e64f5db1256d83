"""Law 10: what cannot succeed is refused at once, in one line with value and remedy, leaving nothing behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import BertpipeError, InputError
from pipeline.training import pretrain


def changed_manifest(shards: Path, to: Path, **vocabulary: Any) -> Path:
    """A copy of a shard folder whose manifest says something else of its vocabulary."""
    shutil.copytree(shards, to)
    manifest = json.loads((to / "manifest.json").read_text())
    manifest["vocabulary"] |= vocabulary
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def test_the_control_of_these_refusals_trains(recipe: dict[str, Any], write_recipe: Any, cli: Any) -> None:
    recipe["phases"][0] |= {"steps": 1, "warmup_steps": 0}
    assert cli("pretrain", write_recipe(recipe)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["phases.0.stpes=3"], "unknown key phases.0.stpes; the nearest known is phases.0.steps"),
        (["phases.0.shards=nowhere"], "nowhere does not exist"),
        (["phases.0.global_batch=4096", "phases.0.micro_batch=16"], "fewer than one global batch of 4096"),
        (["phases.0.sequence_length=32"], "sequence_length is 32; raise it"),
        (["--ranks", "3"], "3 ranks don't divide the plan's 8 lanes"),
        (["--ranks", "8"], "micro_batch 4 doesn't divide the 2 sequences"),
        (["--ranks", "0"], "--ranks is 0"),
        (["deepspeed=zero9"], "there are zero0, zero1, zero2, zero2_offload, zero3, zero3_offload"),
        (["precision=bf16", "deepspeed=zero0"], "bf16 goes with ZeRO stage 1 or more"),
        (["precision=fp16"], "fp16 needs a CUDA device"),
        (["precision=fp8"], "precision is 'fp8'; known: fp32, bf16, fp16"),
        (["activation_checkpointing=some"], "known: none, full"),
        (["phases.0.optimizer=sgd"], "known: adamw, bert_adam"),
        (["deepspeed=mine.json"], "mine.json does not exist"),
        (["run=taken"], "taken holds other files"),
        (["run=s3://bucket/run"], "is a URI"),
        (["run.x.y=1"], "names nothing in the recipe"),
        (["run=2024-99-99"], "is no YAML"),
        (["adamw.epsilon=.nan"], "epsilon is nan"),
        (["gradient_clipping=.inf"], "gradient_clipping is inf"),
        (["steps"], "'steps' is no override"),
    ],
)
def test_a_doomed_run_is_refused(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    path = write_recipe(recipe)
    refused = cli("pretrain", path, *arguments, cwd=tmp_path)
    assert refused.returncode == 2, refused.stderr
    assert complaint in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


def test_a_deepspeed_file_that_sets_what_the_recipe_decides_is_refused(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path
) -> None:
    for content, complaint in (
        ('{"bf16": {"enabled": true}}', "sets 'bf16'; the recipe decides it"),
        ('{"torch_autocast": {"enabled": true}}', "sets 'torch_autocast'"),
        ("[]", "must hold keys"),
        ('{"zero_optimization": true}', "must hold keys"),
        ('{"zero_optimization": {"stage": "two"}}', "asks for ZeRO stage two"),
        ('{"zero_optimization": {"stage": 4}}', "asks for ZeRO stage 4; there are 0, 1, 2, 3"),
        ('{"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}', "takes stage 3 or more"),
        ('{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}', "takes stage 1 or more"),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"device": "disk"}}}',
            "known: none, cpu, nvme",
        ),
        ("{", "is no JSON"),
    ):
        (tmp_path / "own.json").write_text(content)
        refused = cli("pretrain", write_recipe(recipe), "deepspeed=own.json", cwd=tmp_path)
        assert refused.returncode == 2
        assert complaint in refused.stderr


def test_shards_whose_vocabulary_is_another_are_refused(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, shards: Path, tmp_path: Path
) -> None:
    other = changed_manifest(shards, tmp_path / "other", hash="0" * 32)
    refused = cli("pretrain", write_recipe(recipe), f"phases.0.shards={other}")
    assert refused.returncode == 2
    assert "0" * 32 in refused.stderr
    second = recipe["phases"][0] | {"shards": str(other)}
    refused = cli("pretrain", write_recipe(recipe | {"phases": [recipe["phases"][0], second]}))
    assert refused.returncode == 2
    assert "phases share one vocabulary" in refused.stderr


def test_a_vocabulary_without_mask_is_refused(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, shards: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(shards, other)
    (other / "vocab" / "tokenizer.json").unlink()
    vocabulary = other / "vocab" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("[MASK]\n", "mask-that-is-none\n"))
    refused = cli("pretrain", write_recipe(recipe), f"phases.0.shards={other}")
    assert refused.returncode == 2
    assert "[MASK]" in refused.stderr
    assert not Path(recipe["run"]).exists()


def test_evaluation_without_held_out_pairs_is_refused(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, shards: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(shards, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["split"] == "train"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    refused = cli("pretrain", write_recipe(recipe), f"phases.0.shards={other}")
    assert refused.returncode == 2
    assert "set evaluate.every=0" in refused.stderr


def test_more_ranks_than_gpus_are_refused(
    recipe: dict[str, Any], write_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "local_devices", lambda: 1)
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES="):
        pretrain.run(str(write_recipe(recipe)), [], 2)


def test_a_fault_that_all_ranks_find_is_said_once_a_node(
    recipe: dict[str, Any], write_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write_recipe(recipe | {"run": ""}))
    for rank, local_rank, said in (("0", "0", "run is empty"), ("1", "1", ""), ("8", "0", "rank 8: ")):
        for name, value in (("RANK", rank), ("LOCAL_RANK", local_rank), ("WORLD_SIZE", "16")):
            monkeypatch.setenv(name, value)
        with pytest.raises(BertpipeError) as caught:
            pretrain.run(path, [], None)
        assert caught.value.exit_code == 2
        assert said in str(caught.value)
        assert bool(str(caught.value)) == bool(said)
