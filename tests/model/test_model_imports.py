"""`model` stands on torch and numpy alone."""

import subprocess
import sys
from pathlib import Path

import pytest

import model

FOLDER = Path(model.__file__).parent
MODULES = sorted(f"model.{path.stem}" for path in FOLDER.glob("*.py") if path.stem != "__init__")


def loaded_after(imports: str) -> set[str]:
    show = f"import {imports}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", show], cwd=FOLDER.parent, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_model_imports_neither_pipeline_nor_deepspeed_nor_transformers():
    assert not loaded_after(", ".join(MODULES)) & {"pipeline", "deepspeed", "transformers"}


@pytest.mark.parametrize("name", ["model", "model.config", "model.hf_families", "model.hf_names"])
def test_a_configuration_is_checked_without_loading_torch(name):
    assert not loaded_after(name) & {"torch", "numpy"}
