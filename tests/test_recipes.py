"""Every recipe that is shipped is read, and its first step trained at a shrunken size."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe import Recipe, read_recipe
from pipeline.training.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def shrunken(recipe: Recipe, shards: Path) -> list[str]:
    """Overrides that leave everything as the recipe has it but the sizes and the steps."""
    overrides = ["model.layers=2", "model.hidden_size=64", "model.heads=2", "model.intermediate_size=128"]
    overrides += ["lanes=4", "checkpoint.every=1", "evaluate.sequences=16", "tracking.experiment=null"]
    for index, phase in enumerate(recipe.phases):
        small = {"shards": shards, "global_batch": 8, "micro_batch": 4, "steps": 1, "warmup_steps": 0}
        overrides += [f"phases.{index}.{key}={value}" for key, value in small.items()]
        # Shards of 64 tokens fit every phase's length.
        assert phase.sequence_length >= 64
    return overrides


def test_there_are_recipes_for_a_laptop_and_for_the_published_sizes() -> None:
    names = ["base", "base_budget", "large", "large_lamb", "mini", "mini_budget", "tiny"]
    assert [path.stem for path in RECIPES] == names


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_first_step_of_every_phase_is_trained(path: Path, shards: Path, cli: Any, tmp_path: Path) -> None:
    recipe = read_recipe(str(path))
    done = cli("pretrain", path, f"run={tmp_path / 'run'}", *shrunken(recipe, shards))
    assert done.returncode == 0, done.stderr
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "latest")
    assert checkpoint.step == len(recipe.phases)
    # Shrunken, not changed: precision, stage, optimizer and rates are the recipe's own.
    for key in ("precision", "deepspeed", "objective", "masking", "adamw", "lamb", "gradient_clipping"):
        assert checkpoint.recipe[key] == recipe.as_dict()[key]
    optimizers = [phase["optimizer"] for phase in checkpoint.recipe["phases"]]
    assert optimizers == [phase.optimizer for phase in recipe.phases]


def pairs(recipe: Recipe, length: int) -> int:
    """How many pairs of up to `length` tokens a run reads."""
    return sum(phase.global_batch * phase.steps for phase in recipe.phases if phase.sequence_length == length)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_the_comments_promise_is_what_the_recipe_says(path: Path) -> None:
    recipe = read_recipe(str(path))
    assert recipe.model["preset"] == path.stem.split("_")[0]
    if path.stem == "large_lamb":
        first, second = recipe.phases
        assert (first.global_batch, first.steps, first.learning_rate) == (65536, 7038, 6e-3)
        assert (second.global_batch, second.steps, second.learning_rate) == (32768, 1563, 4e-3)
        assert first.warmup_steps / first.steps == pytest.approx(0.2843, abs=1e-4)
        assert second.warmup_steps / second.steps == pytest.approx(0.128, abs=1e-4)
        assert {phase.optimizer for phase in recipe.phases} == {"lamb"}
    elif path.stem.endswith("_budget"):
        # Evaluated as the published recipes are, and each phase's rate goes on where the last one's ends.
        assert recipe.held_out_masking.rate == 0.15 < recipe.masking.rate
        assert [phase.final_learning_rate for phase in recipe.phases[:-1]] == [
            phase.learning_rate for phase in recipe.phases[1:]
        ]
        if path.stem == "base_budget":
            published = read_recipe(str(path.with_name("base.yaml")))
            assert pairs(recipe, 128) / pairs(published, 128) == pytest.approx(0.1, abs=0.001)
            assert pairs(recipe, 512) / pairs(published, 512) == pytest.approx(0.1, abs=0.001)
    elif path.stem not in ("tiny", "mini"):
        assert recipe.steps == 1_000_000
        assert [phase.sequence_length for phase in recipe.phases] == [128, 512]
        # One line from 1e-4 at step 10,000 to 0 at step 1,000,000, over both phases.
        first, second = recipe.phases
        assert first.final_learning_rate == pytest.approx(second.learning_rate)
        assert second.learning_rate == pytest.approx(1e-4 * 100_000 / 990_000, rel=1e-4)
