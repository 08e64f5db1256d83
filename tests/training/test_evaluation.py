"""What a run's evaluation does where the held-out pairs are damaged."""

from pathlib import Path
from typing import Any

import pytest

from model.bert import BertForPretraining
from pipeline.corpus.sharding import ShardConfig
from pipeline.corpus.sharding import run as shard
from pipeline.errors import RunFailed
from pipeline.recipe import recipe_from
from pipeline.training.evaluate import evaluate
from pipeline.training.plan import make_plan
from pipeline.training.world import World


def test_a_run_goes_on_without_damaged_held_out_pairs_while_any_are_left(
    recipe: dict[str, Any],
    shards: Path,
    python_english: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    damaged = tmp_path / "damaged"
    shard(
        ShardConfig(
            corpus=(str(python_english),), output=str(damaged), vocab=str(shards / "vocab"), max_seq_length=64,
            workers=1, validation_fraction=0.1, seed=7,
        )
    )  # fmt: skip
    for tar in damaged.glob("val-*.tar"):
        data = tar.read_bytes()
        tar.write_bytes(data[:3000] + b"damage" + data[3006:])
    recipe["evaluate"]["sequences"] = 32
    recipe["phases"][0]["shards"] = {str(damaged): 1, str(shards): 1}
    with pytest.raises(RunFailed, match=r"val-00000.tar at byte 0 .* hash"):
        list(make_plan(recipe_from(recipe, "recipe"), 1).held_out(0, World.alone()))

    recipe["loader"]["damage"] = "skip"
    plan = make_plan(recipe_from(recipe, "recipe"), 1)
    network = BertForPretraining(plan.model)
    figures = [evaluate(network, plan.held_out(0, World.alone()), "cpu") for _ in range(2)]
    assert figures[0] == figures[1]
    assert capfd.readouterr().err.count("are left out") == 1

    recipe["phases"][0]["shards"] = str(damaged)
    plan = make_plan(recipe_from(recipe, "recipe"), 1)
    with pytest.raises(
        RunFailed, match=r"nothing is left of the held-out pairs .* evaluate.every=0"
    ) as failure:
        evaluate(network, plan.held_out(0, World.alone()), "cpu")
    assert "\n" not in str(failure.value)
