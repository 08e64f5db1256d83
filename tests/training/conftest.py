"""A recipe small enough to train in seconds."""

from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def recipe(shards: Path, tmp_path: Path) -> dict[str, Any]:
    """Plain values of a recipe of 20 steps, run folder and database inside the test's own folder."""
    return {
        "run": str(tmp_path / "RUNS" / "try"),
        "seed": 3,
        "model": {"preset": "tiny", "hidden_size": 64, "intermediate_size": 128},
        "deepspeed": "zero1",
        "lanes": 8,
        "phases": [
            {
                "shards": str(shards),
                "sequence_length": 64,
                "global_batch": 16,
                "micro_batch": 4,
                "steps": 20,
                "learning_rate": 1e-3,
                "warmup_steps": 4,
            }
        ],
        "checkpoint": {"every": 5, "keep_last": 2},
        "evaluate": {"every": 10, "sequences": 32},
        "tracking": {"experiment": None},
        "loader": {"workers": 0},
    }


@pytest.fixture
def write_recipe(tmp_path: Path) -> Any:
    """write_recipe(values) → the path of a YAML file."""

    def write(values: dict[str, Any], name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values))
        return path

    return write
