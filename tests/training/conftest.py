"""A recipe small enough to train in seconds."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="session")
def processes() -> ModuleType:
    """What `processes.py` beside this file offers: tests are no package, so that it can't be imported."""
    path = Path(__file__).with_name("processes.py")
    specification = importlib.util.spec_from_file_location("processes", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


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
