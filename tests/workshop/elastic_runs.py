"""Runs that go on with other ranks and stages, leg by leg, and states taken up by other ranks, case by case."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.training.metrics import read_metrics
from pipeline.training.world import free_port
from workshop.recipes import small_recipe

_RANK = Path(__file__).with_name("state_ranks.py")
STEPS = (12, 13, 13, 12)


class Leg(NamedTuple):
    """A start: its ranks, its DeepSpeed file, how many sequences a rank computes at once."""

    ranks: int
    deepspeed: str
    micro_batch: int = 4


def recipe_of(run: Path, shards: Path, phases: int, leg: Leg) -> dict[str, Any]:
    """The first `phases` of a recipe of 50 steps without dropout, whose masks differ between numbers of ranks."""
    values = small_recipe(run, shards, micro_batch=leg.micro_batch)
    values["model"] |= {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    values |= {"deepspeed": leg.deepspeed, "checkpoint": {"every": 100, "keep_last": 9}}
    (phase,) = values.pop("phases")
    # Trained at an even rate once it is warm: each phase goes on where the one before it stopped.
    rates = {"learning_rate": 1e-3, "final_learning_rate": 1e-3}
    warm = [phase | rates | {"steps": steps, "warmup_steps": 0} for steps in STEPS[:phases]]
    warm[0]["warmup_steps"] = 4
    return values | {"phases": warm, "evaluate": {"every": 0}}


def write_recipe(folder: Path, shards: Path, phases: int, leg: Leg, run: str) -> Path:
    path = folder / f"{run}-{phases}.yaml"
    path.write_text(yaml.safe_dump(recipe_of(folder / run, shards, phases, leg)))
    return path


def train(cli: Any, folder: Path, shards: Path, phases: int, leg: Leg, run: str) -> Any:
    """Train a run as far as its first `phases`."""
    path = write_recipe(folder, shards, phases, leg, run)
    done = cli("pretrain", path, "--ranks", leg.ranks)
    assert done.returncode == 0, done.stderr
    return done


def largest_difference(run: Path, reference: Path) -> float:
    """Of two runs' losses, relative, once it is clear that both trained all 50 steps on the same samples."""
    ours, theirs = read_metrics(run), read_metrics(reference)
    for name in ("step", "samples", "tokens", "epoch", "learning_rate"):
        assert [line[name] for line in ours] == [line[name] for line in theirs]
    assert len(ours) == sum(STEPS)
    # Something is learned: agreement on a flat line would prove little.
    assert theirs[-1]["loss"] < theirs[0]["loss"] - 0.5
    return max(
        abs(mine["loss"] - other["loss"]) / other["loss"] for mine, other in zip(ours, theirs, strict=True)
    )


def states(
    folder: Path, ranks: int, write: Sequence[str] = (), pairs: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """What each pair's state differs in, taken up by `ranks` ranks, after the cases to `write` are written."""
    port = free_port()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_RANK.parents[1]), *sys.path])}
    started = []
    for rank in range(ranks):
        world = {"rank": rank, "size": ranks, "local_rank": rank, "local_size": ranks, "port": port}
        job = {
            "world": world | {"address": "127.0.0.1"},
            "folder": str(folder),
            "write": write,
            "pairs": pairs,
        }
        command = [sys.executable, str(_RANK), json.dumps(job)]
        started.append(
            subprocess.Popen(
                command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    said = [process.communicate(timeout=280)[0] for process in started]
    assert [process.returncode for process in started] == [0] * ranks, said[0]
    found: dict[str, Any] = json.loads((folder / f"found-{ranks}.json").read_text())
    return found
