"""What a run is evaluated on, and what becomes of that where the held-out pairs are damaged."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bert import BertForPretraining
from pipeline.batches.sequences import IGNORED
from pipeline.errors import RunFailed
from pipeline.objectives import OBJECTIVES
from pipeline.recipe import recipe_from
from pipeline.training.evaluate import describe, evaluate
from pipeline.training.plan import make_plan
from pipeline.training.world import World
from workshop.shard_folders import shard_small
from workshop.small_loader import contents


def test_a_run_goes_on_without_damaged_held_out_pairs_while_any_are_left(
    recipe: dict[str, Any],
    shards: Path,
    python_english: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    damaged = shard_small(python_english, tmp_path / "damaged", vocab=str(shards / "vocab"), seed=7)
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


def test_runs_with_different_masking_rates_can_be_asked_the_same(recipe: dict[str, Any]) -> None:
    def asked(rate: float, **evaluated: float) -> dict[tuple[int, int], tuple[bytes, ...]]:
        changed = recipe | {"masking": {"rate": rate}, "evaluate": recipe["evaluate"] | evaluated}
        return contents(list(make_plan(recipe_from(changed, "recipe"), 1).held_out(0, World.alone())))

    assert asked(0.4, masking_rate=0.15) == asked(0.15)
    assert asked(0.4) != asked(0.15)


def test_where_no_pair_has_an_order_to_ask_for_no_figure_says_that_all_were_told_right(
    recipe: dict[str, Any], shards: Path
) -> None:
    plan = make_plan(recipe_from(recipe | {"objective": "mlm+sop"}, "recipe"), 1)
    network, objective = BertForPretraining(plan.model), OBJECTIVES["mlm+sop"]
    asked = list(plan.held_out(0, World.alone()))
    unasked = [
        dataclasses.replace(batch, next_labels_B=np.full_like(batch.next_labels_B, IGNORED), labelled=0)
        for batch in asked
    ]
    with_pairs, without = (evaluate(network, each, "cpu", objective) for each in (asked, unasked))
    assert without == {name: with_pairs[name] for name in with_pairs if not name.startswith("sop_")}
    assert "sop_loss" in with_pairs
    said = describe({"step": 1, "sequences": 9, "objective": "mlm+sop", "unigram_mlm_loss": 7.0, **without})
    assert said.splitlines()[-1] == "SOP  of none of these pairs is it asked"
