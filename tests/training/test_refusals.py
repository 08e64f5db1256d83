"""Law 10: what cannot succeed is refused at once, in one line with value and remedy, leaving nothing behind."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import BertpipeError, InputError
from pipeline.training import pretrain
from pipeline.training.settings import read_settings
from workshop.shard_folders import list_other_shards


def changed_manifest(shards: Path, to: Path, **vocabulary: Any) -> Path:
    """A copy of a shard folder whose manifest says something else of its vocabulary."""
    shutil.copytree(shards, to)
    manifest = json.loads((to / "manifest.json").read_text())
    manifest["vocabulary"] |= vocabulary
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
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
        (
            '{"zero_optimization": {"stage": 2, "offload_optimizer": "cpu"}}',
            "offload_optimizer is 'cpu'; it holds keys",
        ),
        ('{"zero_optimization": {"stage": 1, "reduce_bucket_size": "auto"}}', "reduce_bucket_size is 'auto'"),
        (
            '{"zero_optimization": {"stage": 2, "round_robin_gradients": true}}',
            "round_robin_gradients, with which DeepSpeed saves fp32 weights",
        ),
        (
            '{"prescale_gradients": true}',
            "sets 'prescale_gradients'; gradients are summed over the ranks as they",
        ),
        ('{"zero_optimization": {"stage": 1}, "gradient_predivide_factor": 2.0}', "leave it out"),
        ('{"zero_optimization": {"stage": 1, "reduce_bucket_size": 0}}', "reduce_bucket_size is 0"),
        ("{", "is no JSON"),
    ],
)
def test_a_deepspeed_file_that_sets_what_the_recipe_decides_is_refused(
    tmp_path: Path, content: str, complaint: str
) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(InputError) as refused:
        read_settings(str(tmp_path / "own.json"))
    assert complaint in str(refused.value)


def test_what_deepspeed_itself_does_not_take_is_refused_before_anything_is_written(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path
) -> None:
    path = write_recipe(recipe)
    second = recipe["phases"][0] | {"optimizer": "bert_adam"}
    mixed = write_recipe(recipe | {"phases": [*recipe["phases"], second]}, "mixed.yaml")
    for own, given, complaint in (
        ({"stage": 1, "stge": 2}, path, "stge"),
        ({"stage": 2, "offload_optimizer": {"device": "cpu", "fast": True}}, path, "fast"),
        (
            {"stage": 2, "offload_optimizer": {"device": "cpu"}},
            mixed,
            "bert_adam is not DeepSpeed's own Adam",
        ),
        (
            {"stage": 2, "offload_optimizer": {"device": "cpu"}},
            write_recipe(recipe | {"phases": [recipe["phases"][0] | {"optimizer": "lamb"}]}, "lamb.yaml"),
            "optimizer lamb is not DeepSpeed's own Adam",
        ),
    ):
        (tmp_path / "own.json").write_text(json.dumps({"zero_optimization": own}))
        refused = cli("pretrain", given, f"deepspeed={tmp_path / 'own.json'}")
        assert refused.returncode == 2, refused.stderr
        assert complaint in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert not Path(recipe["run"]).exists()
    # The control: the like of a shipped one, over both optimizers.
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 1}}')
    brief = [f"phases.{index}.{key}" for index in (0, 1) for key in ("steps=1", "warmup_steps=0")]
    done = cli("pretrain", mixed, f"deepspeed={tmp_path / 'own.json'}", *brief)
    assert done.returncode == 0, done.stderr


def test_another_users_checkpoint_is_not_resumed_without_a_word(
    recipe: dict[str, Any], write_recipe: Any, cli: Any
) -> None:
    if os.getuid():
        pytest.skip("needs root, to give a file to another user")
    recipe["phases"][0] |= {"steps": 1, "warmup_steps": 0}
    path = write_recipe(recipe)
    assert cli("pretrain", path).returncode == 0
    for file in Path(recipe["run"]).rglob("*_states.pt"):
        os.chown(file, 4711, -1)
    refused = cli("pretrain", path)
    assert refused.returncode == 2
    assert "belongs to another user" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    # Nor is it where it would be converted.
    refused = cli("pretrain", path, "deepspeed=zero2")
    assert refused.returncode == 2
    assert "belongs to another user" in refused.stderr
    assert "converting" not in refused.stderr
    assert list((Path(recipe["run"]) / "checkpoints").glob(".*")) == []
    assert cli("pretrain", path, "--trust-checkpoint").returncode == 0


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
    assert "all shards of a run share one vocabulary" in refused.stderr


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
    list_other_shards(other, lambda tars: [each for each in tars if each.split == "train"])
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
