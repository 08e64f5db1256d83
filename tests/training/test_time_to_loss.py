"""The benchmark of the time to a loss compares what it says: the same training on both sides, timed to one goal."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "time_to_loss.py"


@pytest.mark.long
def test_the_trainer_learns_what_the_paper_recipe_does(
    recipe: dict[str, Any], write_recipe: Any, shards: Path
) -> None:
    recipe["phases"][0] |= {"global_batch": 16, "micro_batch": 8, "steps": 20, "warmup_steps": 2}
    # Both draw other dropout masks.
    recipe["model"] |= {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    paper = write_recipe(recipe, "paper.yaml")
    budget = write_recipe(recipe | {"masking": {"rate": 0.4}}, "budget.yaml")
    command = [
        sys.executable,
        str(SCRIPT),
        "--shards",
        str(shards),
        "--paper",
        str(paper),
        "--budget",
        str(budget),
    ]
    # A goal that untrained networks are at.
    command += ["--below", "-9", "--every", "4", "--sequences", "64", "--seeds", "5", "--budget-ranks", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(re.findall(r"(\w+): +[\d.]+ s, step 4, loss ([\d.]+)", done.stdout))
    assert found.keys() == {"paper", "budget", "transformers"}, done.stdout
    assert float(found["paper"]) == pytest.approx(float(found["transformers"]), abs=2e-4)
    assert found["budget"] != found["paper"]
    assert len(re.findall(r"times sooner than the Trainer", done.stdout)) == 2
