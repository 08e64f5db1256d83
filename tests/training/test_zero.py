"""Every file of deepspeed_configs/ trains the same network: same losses, exact resume, same conversion."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.release.convert import ConvertConfig
from pipeline.release.convert import run as convert
from pipeline.training.checkpoints import read_checkpoint
from pipeline.training.metrics import read_metrics
from pipeline.training.settings import ZeroSettings, read_settings
from workshop import processes
from workshop.recipes import small_recipe

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "deepspeed_configs").glob("*.json"))
# Its masks differ between world sizes.
WITHOUT_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture
def still(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without dropout, of 24 steps."""
    recipe["model"] |= WITHOUT_DROPOUT
    recipe["phases"][0]["steps"] = 24
    recipe["evaluate"]["every"] = 24
    return recipe


@pytest.fixture(scope="session")
def reference(shards: Path, cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder that all others are held against: one rank, ZeRO 0, no accumulation."""
    folder = tmp_path_factory.mktemp("reference")
    values = small_recipe(folder / "run", shards, micro_batch=16, steps=24)
    values["model"] |= WITHOUT_DROPOUT
    values |= {"deepspeed": "zero0", "checkpoint": {"every": 10, "keep_last": 9}}
    values["evaluate"]["every"] = 24
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    done = cli("pretrain", folder / "recipe.yaml")
    assert done.returncode == 0, done.stderr
    losses = [line["loss"] for line in read_metrics(folder / "run")]
    # Something is learned: agreement on a flat line would prove little.
    assert losses[19] < losses[0] - 0.1
    return folder / "run"


def assert_agree(run: Path, reference: Path) -> None:
    # Over 20 steps: beyond, the last bits of sums in other orders grow.
    ours, theirs = read_metrics(run)[:20], read_metrics(reference)[:20]
    assert len(ours) == 20
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
    # Ours at stage 0, DeepSpeed's at the others.
    norms = [line["gradient_norm"] for line in theirs]
    assert [line["gradient_norm"] for line in ours] == pytest.approx(norms, rel=1e-4)


def test_there_is_a_file_for_every_stage_and_offload() -> None:
    assert CONFIGS == ["zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]
    for name in CONFIGS:
        settings = read_settings(name)
        assert settings.stage == int(name[4])
        assert settings.optimizer_device == ("cpu" if "offload" in name else "none")
        assert settings.parameter_device == ("cpu" if name == "zero3_offload" else "none")
        assert read_settings(f"{name}.json") == settings
        # Nothing is compiled on the way to the first step.
        assert not settings.wants_cpu_adam
        # The word embeddings of `large`, the largest tensor of a shipped recipe, go into one bucket.
        assert settings.overlaps
        assert settings.bucket >= 30_522 * 1_024


def test_a_json_that_says_nothing_of_communication_gets_deepspeeds_defaults() -> None:
    def silent(stage: int) -> ZeroSettings:
        return ZeroSettings(path="own.json", values={"zero_optimization": {"stage": stage}})

    assert [silent(stage).overlaps for stage in (0, 1, 2, 3)] == [False, False, False, True]
    assert silent(1).bucket == 500_000_000


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_a_stage_agrees_resumes_exactly_and_converts_to_the_same_model(
    name: str,
    still: dict[str, Any],
    write_recipe: Any,
    cli: Any,
    reference: Path,
    tmp_path: Path,
) -> None:
    still |= {"deepspeed": name, "checkpoint": {"every": 10, "keep_last": 9}}
    path, run = write_recipe(still), Path(still["run"])
    # Two ranks, each with two micro-batches a step; killed past the checkpoint of step 10.
    # The folder stands on the command line, by which its processes are found.
    process = processes.begin(path, f"run={run}", "--ranks", 2)
    processes.wait_for_checkpoint(run, 10, process)
    processes.wait_for_step(run, 11, process)
    processes.kill_all(run)
    process.wait()
    before = processes.learned(run)
    done = cli("pretrain", path, "--ranks", 2)
    assert done.returncode == 0, done.stderr
    resumed = re.search(r"resuming .* after step (\d+) of 24", done.stderr)
    assert resumed is not None
    assert int(resumed[1]) < 24
    # The steps that both starts did are the same to the last bit, and the whole agrees with the reference.
    assert 11 <= len(before) < 24
    assert processes.learned(run)[: len(before)] == before
    assert_agree(run, reference)

    model, other = tmp_path / "model", tmp_path / "reference"
    assert read_checkpoint(run / "checkpoints" / "step-00000020").zero_stage == int(name[4])
    proof = convert(ConvertConfig(checkpoint=run / "checkpoints" / "step-00000020", output=model))
    assert proof.largest_difference < 1e-4
    convert(ConvertConfig(checkpoint=reference / "checkpoints" / "step-00000020", output=other))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (model, other))
    assert ours.keys() == theirs.keys()
    for weight, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[weight], atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "ranks", "micro_batch"), [("zero0", 2, 8), ("zero1", 1, 4), ("zero3", 1, 8)]
)
def test_ranks_and_accumulation_agree(
    name: str,
    ranks: int,
    micro_batch: int,
    still: dict[str, Any],
    write_recipe: Any,
    cli: Any,
    reference: Path,
) -> None:
    still["deepspeed"] = name
    still["phases"][0]["micro_batch"] = micro_batch
    done = cli("pretrain", write_recipe(still), "--ranks", ranks)
    assert done.returncode == 0, done.stderr
    assert_agree(Path(still["run"]), reference)


@pytest.mark.long
def test_bf16_stays_within_two_percent_of_fp32_over_a_hundred_steps(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path
) -> None:
    recipe["phases"][0] |= {"steps": 100, "micro_batch": 16}
    recipe["checkpoint"]["every"] = recipe["evaluate"]["every"] = 100
    path = write_recipe(recipe)
    losses = {}
    # The further stages compute as the first does, and show it in fewer steps.
    for precision, name, stop in (
        ("fp32", "zero1", 100), ("bf16", "zero1", 100), ("bf16", "zero2", 20), ("bf16", "zero3", 20),
    ):  # fmt: skip
        run = tmp_path / f"{name}-{precision}"
        schedule = (f"phases.0.steps={stop}", "phases.0.final_learning_rate=1e-3", f"checkpoint.every={stop}")
        done = cli("pretrain", path, f"run={run}", f"precision={precision}", f"deepspeed={name}", *schedule)
        assert done.returncode == 0, done.stderr
        losses[precision, name] = [line["loss"] for line in read_metrics(run)]
        # The optimizer's fp32 weights leave, not the halves that were computed with.
        weights = load_file(run / "checkpoints" / "latest" / "weights.safetensors")
        assert all(tensor.dtype == torch.float32 for tensor in weights.values())
        matrix = weights["bert.embeddings.word.weight"]
        assert bool((matrix.bfloat16().float() != matrix).any())
        convert(
            ConvertConfig(checkpoint=run / "checkpoints" / "latest", output=tmp_path / f"{run.name}-model")
        )
    reference = losses.pop(("fp32", "zero1"))
    assert reference[-1] < reference[0] - 0.5
    for found in losses.values():
        assert len(found) >= 20
        assert found == pytest.approx(reference[: len(found)], rel=0.02)
        assert found != reference[: len(found)]


def test_activation_checkpointing_changes_nothing(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path
) -> None:
    recipe["phases"][0] |= {"steps": 6, "warmup_steps": 2}
    path = write_recipe(recipe)
    kept, recomputed = tmp_path / "kept", tmp_path / "recomputed"
    assert cli("pretrain", path, f"run={kept}", "deepspeed=zero3").returncode == 0
    done = cli("pretrain", path, f"run={recomputed}", "deepspeed=zero3", "activation_checkpointing=full")
    assert done.returncode == 0, done.stderr
    assert processes.learned(recomputed) == processes.learned(kept)
