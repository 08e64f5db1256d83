"""What a second rank brings: sequences a second of `bertpipe pretrain` on one rank and on two of this machine's cores.

In: a preset, a batch, DeepSpeed configurations. Out: for each size of micro-batch a table: one rank on two threads and
on one, two ranks of a thread each by configuration, with the share of such ranks' time that messages hold up; and the
machine's own ceiling, two runs of a thread each that send each other nothing. 100 % is twice what one rank makes of
one thread. What always holds: all are the real command on the same shards, recipe and steps, each a process of its
own; rounds go through all of them in turn, and a ratio is of one round, so that what else the machine does meets all
alike. Shown are medians over steps (but the first few), then over rounds.

Two cores share their memory's bandwidth and, where they are one core's two threads, its arithmetic: what the ceiling
leaves of 100 % is no message's fault.

    $ python benchmarks/ranks.py --preset tiny --rounds 3
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from parts.generated_text import docstrings, take, write_texts

from pipeline.shipped import shipped_file
from pipeline.training.world import World, free_port

ROOT = Path(__file__).resolve().parents[1]
LENGTH = 128
PARTS = ("gradients", "round", "update")
# Two runs or ranks do not begin at the same instant, and first steps find nothing where they left it.
WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """Runs that are started together.

    ranks: of a run
    threads: of a rank
    runs: so many at a time, which know nothing of each other
    deepspeed: a file of deepspeed_configs/; with "-afterwards", nothing is sent during the backward pass
    """

    ranks: int
    threads: int
    runs: int = 1
    deepspeed: str = "zero1"

    def __str__(self) -> str:
        if self.runs > 1:
            return f"{self.runs} runs of a rank of a thread, side by side"
        ranks = (
            f"{self.ranks} rank{'s' * (self.ranks > 1)} of {self.threads} thread{'s' * (self.threads > 1)}"
        )
        return f"{ranks}, {self.deepspeed}"


ONE = Case(ranks=1, threads=1)
CEILING = Case(ranks=1, threads=1, runs=2)


@dataclass(frozen=True, kw_only=True)
class Found:
    """sequences_per_second: of all runs; held_up: share of a step, by part, of the rank that it holds up least."""

    sequences_per_second: float
    held_up: dict[str, float]


def shards(folder: Path) -> Path:
    """Pairs of real English, of the docstrings that every Python carries."""
    write_texts(folder / "corpus.txt", take(docstrings(), 4e6))
    made = folder / "shards"
    for command in (
        ["vocab", str(folder / "corpus.txt"), "-o", str(folder / "vocab"), "--size", "8192"],
        ["shard", str(folder / "corpus.txt"), "--vocab", str(folder / "vocab"), "-o", str(made)],
    ):
        command = [sys.executable, "-m", "pipeline.cli", *command, "--progress", "quiet"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return made


def recipe(
    options: argparse.Namespace, case: Case, micro_batch: int, data: Path, run: Path
) -> dict[str, Any]:
    """A run's recipe, beside which its DeepSpeed JSON is written."""
    name, _, afterwards = case.deepspeed.partition("-")
    values = json.loads(shipped_file(f"deepspeed_configs/{name}.json", what="deepspeed").read_text())
    if afterwards:
        values["zero_optimization"]["overlap_comm"] = False
    path = run.with_suffix(".json")
    path.write_text(json.dumps(values))
    return {
        "run": str(run),
        "model": {"preset": options.preset},
        "precision": options.precision if case.deepspeed != "zero0" else "fp32",
        "deepspeed": str(path),
        "phases": [
            {
                "shards": str(data),
                "sequence_length": LENGTH,
                "global_batch": options.batch,
                "micro_batch": micro_batch,
                "steps": options.steps,
                "learning_rate": 1e-4,
                "warmup_steps": 2,
            }
        ],
        # Neither falls into the steps that count.
        "checkpoint": {"every": 10 * options.steps},
        "evaluate": {"every": 0},
        "guards": {"drift_every": 0},
        "tracking": {"experiment": None},
        "loader": {"workers": 0},
    }


def measure(options: argparse.Namespace, case: Case, micro_batch: int, data: Path) -> Found:
    """Start a case's runs and wait for them."""
    with tempfile.TemporaryDirectory(dir=data.parent) as name:
        started, files = [], []
        for number in range(case.runs):
            run = Path(name) / f"run-{number}"
            path = run.with_suffix(".yaml")
            path.write_text(yaml.safe_dump(recipe(options, case, micro_batch, data, run)))
            port = free_port()
            for rank in range(case.ranks):
                files.append(Path(name) / f"steps-{number}-{rank}")
                world = World(
                    rank=rank,
                    size=case.ranks,
                    local_rank=rank,
                    local_size=case.ranks,
                    address="127.0.0.1",
                    port=port,
                )
                environment = os.environ | {
                    "OMP_NUM_THREADS": str(case.threads),
                    "OMP_WAIT_POLICY": "PASSIVE",
                }
                script = ROOT / "benchmarks/parts/timed_rank.py"
                started.append(
                    subprocess.Popen(
                        [sys.executable, str(script), str(files[-1]), "pretrain", str(path)],
                        env=environment | (world.environment() if case.ranks > 1 else {}),
                        stderr=subprocess.PIPE,
                        stdout=subprocess.DEVNULL,
                        text=True,
                    )
                )
        for process in started:
            said = process.communicate()[1]
            if process.returncode:
                raise SystemExit(f"{case}: {said.strip().splitlines()[-1]}")
        steps = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return found(options, case, steps)


def found(options: argparse.Namespace, case: Case, steps: list[list[dict[str, Any]]]) -> Found:
    """What the steps of all ranks come to, while all of them run."""
    since = max(rank[WARM_UP]["began"] for rank in steps)
    until = min(rank[-1]["began"] for rank in steps)
    rate, shares = 0.0, []
    for rank in steps:
        pairs = [
            (after["began"] - step["began"], step["held_up"])
            for step, after in itertools.pairwise(rank)
            if since <= step["began"] and after["began"] <= until
        ]
        if not pairs:
            raise SystemExit(f"{case}: the runs never ran side by side for a step; raise --steps")
        seconds = statistics.median(pair[0] for pair in pairs)
        rate += options.batch / seconds / case.ranks
        whole = sum(pair[0] for pair in pairs)
        shares.append({part: sum(pair[1].get(part, 0.0) for pair in pairs) / whole for part in PARTS})
    # Of two, the later one waits for nobody: what holds it up is the messages themselves.
    return Found(sequences_per_second=rate, held_up=min(shares, key=lambda share: sum(share.values())))


def report(measured: dict[Case, list[Found]]) -> None:
    """The table of one size of micro-batch."""
    heads = ("sequences/s", "of twice one", "of the ceiling", *PARTS)
    print(f"  {'':46}" + "".join(f"{head:>15}" for head in heads))
    for case, rounds in measured.items():
        rates = [each.sequences_per_second for each in rounds]
        line = f"  {case!s:46}{statistics.median(rates):15.1f}"
        for other, times in ((ONE, 2), (CEILING, 1)):
            ratios = [
                rate / (times * base.sequences_per_second)
                for rate, base in zip(rates, measured[other], strict=True)
            ]
            line += f"{statistics.median(ratios):14.0%} "
        if case.ranks > 1:
            for part in PARTS:
                line += f"{statistics.median(each.held_up[part] for each in rounds):14.1%} "
        print(line.rstrip())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--precision", default="fp32", help="of all but zero0")
    parser.add_argument("--batch", type=int, default=64, help="sequences a step, over all ranks")
    parser.add_argument(
        "--micro-batches", type=int, nargs="+", default=[32, 8], help="sequences a rank at once"
    )
    parser.add_argument(
        "--configurations", nargs="+", default=["zero0", "zero1", "zero1-afterwards", "zero2", "zero3"]
    )
    parser.add_argument("--steps", type=int, default=14, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cases = [Case(ranks=1, threads=2), ONE, CEILING]
    cases += [Case(ranks=2, threads=1, deepspeed=name) for name in options.configurations]
    with tempfile.TemporaryDirectory() as name:
        data = shards(Path(name))
        for micro_batch in options.micro_batches:
            measured: dict[Case, list[Found]] = {case: [] for case in cases}
            for _ in range(options.rounds):
                for case in cases:
                    measured[case].append(measure(options, case, micro_batch, data))
            accumulated = options.batch // 2 // micro_batch
            print(
                f"{options.preset}, {options.precision}, {options.batch} sequences of {LENGTH} a step, micro-batches "
                f"of {micro_batch}, {accumulated} a step on each of two ranks; a step's share held up by messages of …"
            )
            report(measured)


if __name__ == "__main__":
    main()
