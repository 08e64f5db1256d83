"""What a small run learns, step by step, as it was when these figures were written down.

They change where text is cut, paired, ordered or masked otherwise, where weights or dropout are drawn otherwise, or
where the network, its losses or the optimizer compute something else: then say which in the commit, and write anew:

    BERTPIPE_WRITE_GOLDEN=1 python -m pytest tests/training/test_golden_losses.py
"""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.training.metrics import read_metrics
from workshop.recipes import small_recipe
from workshop.shard_folders import shard_small

GOLDEN = Path(__file__).with_name("golden_losses.json")
FIGURES = ("loss", "mlm_loss", "nsp_loss", "gradient_norm")


@pytest.fixture(scope="module")
def run(cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    drawn = random.Random(7)
    words = ["".join(drawn.choices("abcdefghij", k=drawn.randint(2, 6))) for _ in range(300)]
    documents = (
        "\n".join(
            " ".join(drawn.choices(words, k=drawn.randint(4, 14))) + "." for _ in range(drawn.randint(4, 9))
        )
        for _ in range(200)
    )
    (folder / "corpus.txt").write_text("\n\n".join(documents) + "\n")
    shard_small(folder / "corpus.txt", folder / "SHARDS", vocab_size=200)
    recipe = small_recipe("RUN", "SHARDS", steps=12) | {"evaluate": {"every": 0}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = cli("pretrain", "recipe.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "RUN"


def test_a_small_run_learns_as_it_did(run: Path) -> None:
    found = [{name: line[name] for name in FIGURES} for line in read_metrics(run)]
    if os.environ.get("BERTPIPE_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert len(found) == len(golden) == 12
    for step, (line, expected) in enumerate(zip(found, golden, strict=True), 1):
        # Processors round differently; a change of method is far larger.
        assert line == pytest.approx(expected, rel=2e-4), f"step {step}"
