"""Plain values of a recipe small enough to train in seconds."""

from pathlib import Path
from typing import Any


def small_recipe(run: Path | str, shards: Path | str, **phase: Any) -> dict[str, Any]:
    """20 steps of a network of 2 × 64 on pairs of up to 64 tokens; `phase` changes the one phase."""
    return {
        "run": str(run),
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
            | phase
        ],
        "checkpoint": {"every": 5, "keep_last": 2},
        "evaluate": {"every": 10, "sequences": 32},
        "tracking": {"experiment": None},
        "loader": {"workers": 0},
    }
