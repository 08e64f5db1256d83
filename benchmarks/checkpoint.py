"""What a checkpoint takes: seconds, bytes, and the share of training time it steals; beside DeepSpeed's own writing.

In: presets, a DeepSpeed configuration, a folder on the disk to be measured. Out: for each preset the bytes; the seconds
that training is held up, by a checkpoint that it waits for and by one that is written while it goes on (its being held
up at once, and its slower steps until all is on disk); the same for DeepSpeed's own `save_checkpoint`, which writes the
engine's state alone, unhashed and unsynced; and a floor, the disk's time for as many bytes, synced. Last the share of
training time at the default interval, with steps of the shipped recipe's batch, reckoned from those measured.
What always holds: each preset is a process of its own; the rounds of the kinds alternate; figures are medians.

    $ python benchmarks/checkpoint.py --presets base large --rounds 3
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from model.bert import BertForPretraining
from model.config import preset
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary
from pipeline.demo import write_corpus
from pipeline.policies import CheckpointPolicy
from pipeline.recipe import read_recipe
from pipeline.training.checkpoints import CheckpointInfo, newest_first
from pipeline.training.engine import Engine
from pipeline.training.joining import join_world, leave_world
from pipeline.training.optimizer import make_optimizer
from pipeline.training.saving import Saver
from pipeline.training.settings import read_settings
from pipeline.training.uncompiled import without_compiler
from pipeline.training.world import World, share_threads

ROOT = Path(__file__).resolve().parents[1]
LENGTH = 128
MASKED = 20
KINDS = ("waits", "goes on", "DeepSpeed")


class Bench:
    """An engine of a preset's size that trains on random tokens."""

    def __init__(self, name: str, configuration: str, folder: Path, batch: int) -> None:
        self.recipe = read_recipe(str(ROOT / "recipes/base.yaml"), ["precision=fp32"])
        self.config = preset(name, vocab_size=30522)
        self.world, self.folder, self.batch = World.alone(), folder, batch
        share_threads(self.world)
        join_world(self.world)
        network = BertForPretraining(self.config)
        with without_compiler():
            self.engine = Engine(
                network,
                make_optimizer("adamw", network, self.recipe),
                read_settings(configuration),
                precision="fp32",
                micro_batch=batch,
                accumulation=1,
                gradient_clipping=1.0,
                world=self.world,
            )
        generator = np.random.default_rng(1)
        count = batch * LENGTH
        masked = batch * MASKED
        self._given: dict[str, Any] = {
            "tokens_T": torch.from_numpy(generator.integers(1000, 30000, count)),
            "segments_T": torch.zeros(count, dtype=torch.int64),
            "positions_T": torch.arange(LENGTH).repeat(batch),
            "sequence_starts_B1": torch.arange(0, count + 1, LENGTH, dtype=torch.int32),
            "longest": LENGTH,
            "masked_positions_M": torch.from_numpy(np.sort(generator.choice(count, masked, replace=False))),
            "masked_labels_M": torch.from_numpy(generator.integers(1000, 30000, masked)),
            "next_labels_B": torch.from_numpy(generator.integers(0, 2, batch)),
        }
        self.vocabulary = small_vocabulary(folder)
        # One a kind, as a run has one: the copies of the second checkpoint lie where those of the first lay.
        self._savers = {
            kind: Saver(
                folder,
                config=self.config,
                vocabulary=self.vocabulary,
                policy=CheckpointPolicy(keep_last=1, asynchronous=kind == "goes on"),
                world=self.world,
            )
            for kind in KINDS[:2]
        }
        self.step_seconds = 0.0
        self._number = 0

    def step(self) -> float:
        """Take a step; returns its seconds."""
        began = time.perf_counter()
        sums = self.engine.network(**self._given)
        self.engine.backward(sums.mlm_sum / (self.batch * MASKED), last=True)
        self.engine.step(1e-4)
        return time.perf_counter() - began

    def warm_up(self) -> None:
        """Have the optimizer's state there, and know what a step takes."""
        for _ in range(2):
            self.step()
        self.step_seconds = statistics.median(self.step() for _ in range(5))

    def held_up(self, kind: str) -> tuple[float, float]:
        """Seconds that a checkpoint takes from training, and until it is on disk."""
        began = time.perf_counter()
        if kind == "DeepSpeed":
            self.engine._engine.save_checkpoint(str(self.folder / "deepspeed"), tag="x", save_latest=False)
            seconds = time.perf_counter() - began
            return seconds, seconds
        saver = self._savers[kind]
        self._number += 1
        trouble = saver.save(self.engine, self._info(), wait=False)
        stolen = time.perf_counter() - began
        while saver.is_writing:
            stolen += self.step() - self.step_seconds
        trouble = trouble or saver.settle()
        if trouble:
            raise trouble
        return stolen, time.perf_counter() - began

    def _info(self) -> CheckpointInfo:
        return CheckpointInfo(
            step=self._number, samples=0, tokens=0, held_out={}, world_size=1, zero_stage=self.engine.stage,
            recipe=self.recipe.as_dict(), model={}, vocabulary={}, shards=[], versions={},
        )  # fmt: skip

    def size(self) -> int:
        """Bytes of the newest checkpoint."""
        newest = newest_first(self.folder / "checkpoints")[0]
        return sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())


def small_vocabulary(folder: Path) -> Vocabulary:
    """Some vocabulary; it is of no size beside the weights."""
    write_corpus(folder / "corpus.txt")
    command = [sys.executable, "-m", "pipeline.cli", "vocab", str(folder / "corpus.txt")]
    command += ["-o", str(folder / "vocab"), "--size", "1000"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return load_vocabulary(str(folder / "vocab"))


def floor(folder: Path, size: int) -> float:
    """Seconds that the disk takes for as many bytes, synced."""
    piece = os.urandom(1 << 24)
    began = time.perf_counter()
    with (folder / "floor").open("wb", buffering=0) as file:
        for _ in range(size // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    (folder / "floor").unlink()
    return seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One preset, in this process."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        bench = Bench(arguments.one, arguments.deepspeed, folder, arguments.batch)
        bench.warm_up()
        for kind in KINDS:
            bench.held_up(kind)
        found: dict[str, Any] = {kind: [] for kind in (*KINDS, "floor")}
        measures: dict[str, Callable[[], Any]] = {
            **{kind: lambda kind=kind: bench.held_up(kind) for kind in KINDS},
            "floor": lambda: (floor(folder, bench.size()),) * 2,
        }
        for _ in range(arguments.rounds):
            for kind, take in measures.items():
                found[kind].append(take())
                bench.step()
            shutil.rmtree(folder / "deepspeed", ignore_errors=True)
        size, sequence = bench.size(), bench.step_seconds / arguments.batch
        leave_world()
    return found | {"bytes": size, "seconds a sequence": sequence}


def middle(pairs: list[tuple[float, float]], index: int) -> str:
    values = [pair[index] for pair in pairs]
    return f"{statistics.median(values):6.2f} s ({min(values):.2f}-{max(values):.2f})"


def report(name: str, found: dict[str, Any], interval: int, batch: int) -> None:
    step = found["seconds a sequence"] * batch
    print(f"{name}: {found['bytes'] / 1e9:.2f} GB a checkpoint")
    print("                         training held up        until it is on disk")
    for kind in (*KINDS, "floor"):
        label = "floor: the disk alone" if kind == "floor" else kind
        first = " " * 22 if kind == "floor" else middle(found[kind], 0)
        print(f"  {label:22} {first}  {middle(found[kind], 1)}")
    stolen = [
        statistics.median(pair[0] for pair in found[kind]) for kind in ("waits", "goes on", "DeepSpeed")
    ]
    print(
        f"  goes on / waits: {stolen[1] / stolen[0]:.2f}, goes on / DeepSpeed's own: {stolen[1] / stolen[2]:.2f}"
    )
    share = stolen[1] / (interval * step)
    print(
        f"  every {interval:,} steps of {batch} sequences, {step:.0f} s each here: {share:.6%} of training time; "
        f"1 % of it would be steps of {100 * stolen[1] / interval:.3f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--presets", nargs="+", default=["base", "large"])
    parser.add_argument("--deepspeed", default="zero1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2, help="sequences of a measured step")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk to be measured")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    recipe = read_recipe(str(ROOT / "recipes/base.yaml"))
    for name in arguments.presets:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        report(name, found, CheckpointPolicy().every, recipe.phases[0].global_batch)


if __name__ == "__main__":
    main()
