"""Phases of one run: their own shards, batch, rate and optimizer; switched and added exactly."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.manifest import read_manifest
from pipeline.recipe import recipe_from
from pipeline.training.bert_adam import BertAdam
from pipeline.training.checkpoints import read_checkpoint, read_weights
from pipeline.training.metrics import read_metrics
from workshop import processes
from workshop.shard_folders import shard_small


@pytest.fixture(scope="module")
def longer_shards(python_english: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same corpus and vocabulary in pairs of up to 128 tokens: what a second phase trains on."""
    output = tmp_path_factory.mktemp("shards") / "128"
    return shard_small(python_english, output, vocab=str(shards / "vocab"), max_seq_length=128)


@pytest.fixture
def second(recipe: dict[str, Any], longer_shards: Path) -> dict[str, Any]:
    """A phase that differs from the recipe's first in everything that may differ."""
    return recipe["phases"][0] | {
        "shards": str(longer_shards),
        "sequence_length": 128,
        "global_batch": 8,
        "micro_batch": 4,
        "steps": 6,
        "learning_rate": 5e-4,
        "warmup_steps": 2,
        "optimizer": "bert_adam",
    }


@pytest.mark.parametrize(
    ("name", "precision", "ranks", "optimizer"),
    [("zero1", "fp32", 2, "lamb"), ("zero3", "bf16", 1, "bert_adam")],
    ids=["fp32", "bf16"],
)
def test_phases_follow_one_another_and_the_switch_is_exact_under_resume(
    recipe: dict[str, Any],
    second: dict[str, Any],
    write_recipe: Any,
    cli: Any,
    tmp_path: Path,
    name: str,
    precision: str,
    ranks: int,
    optimizer: str,
) -> None:
    recipe["phases"] = [recipe["phases"][0] | {"steps": 6}, second | {"optimizer": optimizer}]
    recipe |= {"deepspeed": name, "precision": precision, "checkpoint": {"every": 4, "keep_last": 9}}
    path = write_recipe(recipe)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    done = cli("pretrain", path, f"run={undisturbed}", "--ranks", ranks)
    assert done.returncode == 0, done.stderr
    # Every phase ends in a checkpoint, whatever the interval.
    folders = sorted(path.name for path in (undisturbed / "checkpoints").glob("step-*"))
    assert folders == ["step-00000004", "step-00000006", "step-00000008", "step-00000012"]
    process = processes.begin(path, f"run={disturbed}", "--ranks", ranks)
    switch = disturbed / "checkpoints" / "step-00000006"
    while not switch.exists():  # killed at the switch itself, between the two optimizers
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    processes.kill_all(disturbed)
    process.wait()
    if ranks == 2:  # and once more with the new optimizer at work
        process = processes.begin(path, f"run={disturbed}", "--ranks", ranks)
        processes.wait_for_step(disturbed, 9, process)
        processes.kill_all(disturbed)
        process.wait()
    assert cli("pretrain", path, f"run={disturbed}", "--ranks", ranks).returncode == 0
    assert processes.learned(disturbed) == processes.learned(undisturbed)
    lines = read_metrics(undisturbed)
    assert lines[-1]["samples"] == 6 * 16 + 6 * 8
    assert [line["learning_rate"] for line in lines[6:8]] == pytest.approx([2.5e-4, 5e-4])


def test_a_phase_added_to_a_finished_run_continues_it(
    recipe: dict[str, Any],
    second: dict[str, Any],
    write_recipe: Any,
    cli: Any,
    tmp_path: Path,
) -> None:
    del recipe["lanes"]  # their default follows from the batches, and a new phase must not change the old
    first = recipe["phases"][0] | {"steps": 6}
    added, whole = tmp_path / "added", tmp_path / "whole"
    alone = write_recipe(recipe | {"phases": [first], "run": str(added)}, "alone.yaml")
    assert cli("pretrain", alone).returncode == 0
    both = write_recipe(recipe | {"phases": [first, second], "run": str(added)}, "both.yaml")
    # The first run's lanes, 16, do not divide the second phase's batch of 8.
    refused = cli("pretrain", both)
    assert refused.returncode == 2
    assert "lanes is 16; it must divide every phase's global_batch (common divisor 8)" in refused.stderr
    second |= {"global_batch": 16}
    both = write_recipe(recipe | {"phases": [first, second], "run": str(added)}, "both.yaml")
    done = cli("pretrain", both)
    assert done.returncode == 0, done.stderr
    assert "after step 6 of 12" in done.stderr
    assert cli("pretrain", both, f"run={whole}").returncode == 0
    assert processes.learned(added) == processes.learned(whole)
    # What has trained can neither be taken away nor changed.
    for path, complaint in (
        (alone, "phases can be added, not taken away"),
        (
            write_recipe(
                recipe | {"phases": [first | {"learning_rate": 0.5}, second], "run": str(added)}, "x.yaml"
            ),
            "phases.0.learning_rate: 0.5 here, 0.001 there",
        ),
    ):
        refused = cli("pretrain", path)
        assert refused.returncode == 2
        assert complaint in refused.stderr
    hashes = [read_manifest(phase["shards"]).hash for phase in (first, second)]
    assert read_checkpoint(added / "checkpoints" / "latest").shards == hashes


def test_another_optimizer_begins_from_the_weights_to_the_last_bit(
    recipe: dict[str, Any], write_recipe: Any, cli: Any
) -> None:
    # At such a rate nothing moves: what differs after the switch, the switch has done.
    phase = recipe["phases"][0] | {"steps": 2, "warmup_steps": 0}
    recipe["phases"] = [phase, phase | {"optimizer": "bert_adam", "learning_rate": 1e-30}]
    recipe |= {
        "precision": "bf16",
        "checkpoint": {"every": 100, "keep_last": 9},
        "adamw": {"weight_decay": 0.0},
    }
    for name in ("zero1", "zero2", "zero3"):
        run = Path(recipe["run"]).with_name(name)
        done = cli("pretrain", write_recipe(recipe), f"run={run}", f"deepspeed={name}")
        assert done.returncode == 0, done.stderr
        # DeepSpeed's own words about memory are kept off standard output, which is for results.
        assert done.stdout == ""
        before, after = (read_weights(run / "checkpoints" / f"step-0000000{step}") for step in (2, 4))
        assert all(torch.equal(before[weight], after[weight]) for weight in before)


def test_a_phase_that_has_not_begun_may_change(
    recipe: dict[str, Any], second: dict[str, Any], write_recipe: Any, cli: Any
) -> None:
    first = recipe["phases"][0] | {"steps": 2, "warmup_steps": 0}
    recipe["phases"] = [first, second | {"steps": 2, "warmup_steps": 0}]
    path = write_recipe(recipe)
    # The second phase is doomed, which shows at its first step only.
    broken = cli("pretrain", path, "phases.1.learning_rate=1.0e+30", "gradient_clipping=1.0e+30")
    assert broken.returncode == 1, broken.stderr
    mended = cli("pretrain", path, "gradient_clipping=1.0e+30")
    assert mended.returncode == 0, mended.stderr
    assert "after step 2 of 4" in mended.stderr
    refused = cli("pretrain", path, "gradient_clipping=1.0e+30", "phases.1.learning_rate=1.0e-4")
    assert refused.returncode == 2
    assert "phases.1.learning_rate: 0.0001 here, 0.0005 there" in refused.stderr


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_every_step_belongs_to_one_phase(lengths: list[int]) -> None:
    phase = {"shards": "S", "sequence_length": 64, "global_batch": 8, "micro_batch": 8, "learning_rate": 1e-3}
    recipe = recipe_from({"run": "R", "phases": [phase | {"steps": steps} for steps in lengths]}, "test")
    found = [recipe.phase_of(step) for step in range(recipe.steps)]
    assert found == [index for index, steps in enumerate(lengths) for _ in range(steps)]
    assert recipe.phase_of(recipe.steps) == len(lengths) - 1


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.01]))
def test_bert_adam_is_the_published_formula(seed: int, decay: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(7, dtype=torch.float64, generator=generator)
    gradients = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = BertAdam([parameter], lr=0.1, betas=(0.9, 0.999), eps=1e-6, weight_decay=decay)
    expected, mean, square = start.clone(), torch.zeros(7).double(), torch.zeros(7).double()
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        expected = expected - 0.1 * (mean / (square.sqrt() + 1e-6) + decay * expected)
    torch.testing.assert_close(parameter.detach(), expected)
