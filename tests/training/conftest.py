"""A recipe small enough to train in seconds."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from workshop.recipes import small_recipe


@pytest.fixture
def recipe(shards: Path, tmp_path: Path) -> dict[str, Any]:
    """Plain values of a recipe of 20 steps, run folder and database inside the test's own folder."""
    return small_recipe(tmp_path / "RUNS" / "try", shards)


@pytest.fixture
def write_recipe(tmp_path: Path) -> Any:
    """write_recipe(values) → the path of a YAML file."""

    def write(values: dict[str, Any], name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values))
        return path

    return write
