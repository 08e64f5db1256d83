"""What ranks send each other in a step, exactly: a message more, ours or another DeepSpeed's, does not go unseen."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.shipped import shipped_file
from workshop import collectives, processes
from workshop.collectives import DURING
from workshop.recipes import small_recipe
from workshop.started_ranks import run_ranks

RANKS, ACCUMULATION = 2, 4
# Of the small network: its token embeddings, all else that is decayed, biases and LayerNorms, which aren't.
TOKENS, OTHERS, KEPT = 128_000, 106_752, 3_794
# As an optimizer's two groups: flat tensors, filled up to what two ranks can halve to a multiple of four bytes.
GROUPS = (TOKENS + OTHERS, KEPT + 2)
# The gradients of all else and those of the token embeddings, the last to come, don't go into one bucket.
BUCKET, BUCKETS = 130_000, (OTHERS + KEPT, TOKENS)

# The figures of a step, and the counts and flags of the next.
ROUND = {"round": {"allreduce_ of 16 float64": 1}}


def sums(operator: str, dtype: str) -> dict[str, dict[str, int]]:
    """Gradients of the last micro-batch, during its backward pass; DeepSpeed sends the last bucket after it."""
    first, last = (f"{operator} of {count} {dtype}" for count in BUCKETS)
    return {"last backward" + DURING: {first: 1}, "last backward": {last: 1}}


def each_sums(operator: str, dtype: str) -> dict[str, dict[str, int]]:
    """The same of each micro-batch."""
    last = sums(operator, dtype)
    earlier = {
        part.removeprefix("last "): dict.fromkeys(each, ACCUMULATION - 1) for part, each in last.items()
    }
    return earlier | last


def own_sums(dtype: str) -> dict[str, dict[str, int]]:
    """Gradients of the last micro-batch, all of them during its backward pass."""
    return {"last backward" + DURING: {f"allreduce_ of {count} {dtype}": 1 for count in BUCKETS}}


def update(dtype: str, *, norm: str | None = "float32") -> dict[str, dict[str, int]]:
    """The norm, a message a group, and the weights that each rank has updated, to all others."""
    gathered = {f"_allgather_base_ of {count} {dtype}": 1 for count in GROUPS}
    return {"update": gathered | ({f"allreduce_ of 1 {norm}": len(GROUPS)} if norm else {})}


# A step's messages by configuration.
EXPECTED: dict[str, dict[str, dict[str, int]]] = {
    # Every rank has all of the gradient, so its norm is nothing to ask others for.
    "zero0 fp32": own_sums("float32") | ROUND,
    "zero1 bf16": own_sums("bfloat16") | ROUND | update("bfloat16", norm=None),
    "zero1 fp32": sums("allreduce_", "float32") | ROUND | update("float32"),
    # What a rank keeps is the sum of its part alone, so each micro-batch is summed.
    "zero2 bf16": each_sums("allreduce_", "bfloat16") | ROUND | update("bfloat16"),
    "zero3 fp32": each_sums("_reduce_scatter_base_", "float32")
    | ROUND
    | {
        # Weights of more than `stage3_param_persistence_threshold` elements, kept from forward to backward.
        "forward": {"_allgather_base_ of 128000 float32": 4, "_allgather_base_ of 32768 float32": 4},
        # The smaller ones, one by one.
        "update": {
            "allreduce_ of 1 float64": 2,
            "_allgather_base_ of 2 float32": 1,
            "_allgather_base_ of 64 float32": 24,
            "_allgather_base_ of 128 float32": 4,
            "_allgather_base_ of 2000 float32": 1,
            "_allgather_base_ of 4096 float32": 10,
            "_allgather_base_ of 8192 float32": 4,
        },
    },
}


# By ours, and by DeepSpeed.
AFTERWARDS = ("zero1 bf16", "zero1 fp32")


@pytest.fixture(scope="module")
def folder(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks have trained by each configuration, and by some without sending during the backward pass."""
    folder = tmp_path_factory.mktemp("collectives")
    asked = [*EXPECTED, *(f"{name} afterwards" for name in AFTERWARDS)]
    for name in asked:
        configuration, precision, *afterwards = name.split()
        values = json.loads(
            shipped_file(f"deepspeed_configs/{configuration}.json", what="deepspeed").read_text()
        )
        assert values["zero_optimization"]["overlap_comm"]
        values["zero_optimization"] |= {"reduce_bucket_size": BUCKET, "overlap_comm": not afterwards}
        path = folder / f"{name}.json"
        path.write_text(json.dumps(values))
        batch = {"global_batch": RANKS * ACCUMULATION, "micro_batch": 1, "steps": 2, "warmup_steps": 1}
        recipe = small_recipe(folder / name, shards, **batch) | {
            "deepspeed": str(path),
            "precision": precision,
            "evaluate": {"every": 0},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "asked.json").write_text(json.dumps(asked))
    run_ranks(collectives.__file__, folder, RANKS)
    return folder


@pytest.fixture(scope="module")
def sent(folder: Path) -> dict[str, list[dict[str, dict[str, int]]]]:
    """By configuration: of each step, by part, how often what was sent."""
    found = json.loads((folder / "found.json").read_text())
    return {
        name: [{part: dict(Counter(each)) for part, each in step.items()} for step in steps]
        for name, steps in found.items()
    }


@pytest.mark.xdist_group("collectives")
@pytest.mark.parametrize("name", EXPECTED)
def test_a_step_sends_this_and_nothing_else(name: str, sent: dict[str, Any]) -> None:
    first, second = sent[name]
    # What follows the last step is its checkpoint.
    second.pop("between", None)
    assert second == EXPECTED[name]
    # At its first step ZeRO 3 writes down the order in which it will gather weights.
    assert first == second or name.startswith("zero3")


@pytest.mark.xdist_group("collectives")
@pytest.mark.parametrize("name", AFTERWARDS)
def test_sending_during_the_backward_pass_changes_no_bit(
    name: str, folder: Path, sent: dict[str, Any]
) -> None:
    assert not any(DURING in part for step in sent[f"{name} afterwards"] for part in step)
    ours, theirs = (
        folder / run / "checkpoints" / "latest" / "weights.safetensors"
        for run in (name, f"{name} afterwards")
    )
    assert processes.learned(folder / name) == processes.learned(folder / f"{name} afterwards")
    assert ours.read_bytes() == theirs.read_bytes()
