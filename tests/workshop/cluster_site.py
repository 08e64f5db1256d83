"""A user's folder on the test cluster: the scripts, a corpus, an environment without compilers or network."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workshop.recipes import small_recipe

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = "sbatch slurm/pretrain_large.sh recipes/mine.yaml"
# Nothing of this is wanted in a job: nodes may have neither a compiler nor a network.
FORBIDDEN = ("c++", "g++", "gcc", "cc", "clang", "ninja", "nvcc", "make", "pip", "curl", "wget")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A user's folder on a cluster: the scripts, a corpus, and an environment without compilers or network."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A line as the user types it."""
        environment = dict(self.environment) | options.pop("env", {})
        return subprocess.run(
            ["bash", "-euc", command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )

    def submit(self, command: str, **options: Any) -> int:
        """`sbatch …`; the job's number."""
        done = self.run(command, **options)
        assert done.returncode == 0, done.stderr
        return int(re.findall(r"\d+", done.stdout)[-1])

    def shown(self, job: int) -> dict[str, str]:
        """What SLURM knows of a job."""
        text = self.run(f"scontrol show job {job}").stdout
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def pids(self, job: int, node: str) -> list[int]:
        """The live processes of bertpipe that a job has on a node."""
        found = [int(rank["pid"]) for rank in self.ranks() if (rank["job"], rank["node"]) == (str(job), node)]
        return [pid for pid in found if "pretrain" in _command_line(pid)]

    def wait(self, *jobs: int, seconds: float = 400) -> list[str]:
        """The states in which the jobs ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            states = [self.shown(job)["JobState"] for job in jobs]
            if all(state in ENDED for state in states):
                return states
            time.sleep(0.5)
        raise AssertionError(f"{dict(zip(jobs, states, strict=True))}: {[self.output(job) for job in jobs]}")

    def output(self, job: int) -> str:
        """What a job has printed so far."""
        path = Path(self.shown(job)["StdOut"])
        return path.read_text() if path.exists() else ""

    def ranks(self) -> list[dict[str, str]]:
        """Every process of bertpipe that the jobs started: job, node, rank, pid, command."""
        path = self.folder / "ranks.txt"
        names = ("job", "node", "rank", "pid", "command")
        lines = path.read_text().splitlines() if path.exists() else []
        return [dict(zip(names, line.split(" ", 4), strict=True)) for line in lines]

    def was_forbidden(self) -> list[str]:
        """The calls of compilers and downloaders by jobs."""
        path = self.folder / "forbidden.txt"
        return path.read_text().splitlines() if path.exists() else []

    def write_recipe(self, shards: Path | str, **changes: Any) -> None:
        """`recipes/mine.yaml`: 40 steps of some tenths of a second, long enough to be stopped on their way."""
        recipe = small_recipe("RUNS/mine", shards, global_batch=32, micro_batch=2, steps=40) | {
            "checkpoint": {"every": 20, "keep_last": 2},
            "evaluate": {"every": 20, "sequences": 32},
            "tracking": {"experiment": "cluster"},
            "loader": {"workers": 1},
        }
        (self.folder / "recipes/mine.yaml").write_text(yaml.safe_dump(recipe | changes))


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def make_site(slurm: str, folder: Path, corpus: Path) -> Site:
    """A folder like a checkout's, on a disk that both nodes see; `slurm` is the path of SLURM's configuration."""
    for name in ("corpus", "recipes", "bin", "venv/bin"):
        (folder / name).mkdir(parents=True)
    (folder / "slurm").symlink_to(ROOT / "slurm")
    shutil.copy(corpus, folder / "corpus" / "english.txt")
    real = Path(sys.executable).parent / "bertpipe"
    write_program(
        folder / "venv/bin/bertpipe",
        f'echo "$SLURM_JOB_ID $SLURMD_NODENAME $SLURM_PROCID $$ $*" >> {folder}/ranks.txt\nexec {real} "$@"',
    )
    for name in FORBIDDEN:
        write_program(folder / "venv/bin" / name, f'echo "$0 $*" >> {folder}/forbidden.txt\nexit 1')
    # The machine as its user would describe it on the command line: two nodes, few CPUs, no GPU.
    write_program(
        folder / "bin/sbatch",
        f"""case "$*" in
  *pretrain_large.sh*) machine="--ntasks-per-node=1 --gpus-per-node=0" ;;
  *pretrain_base.sh*) machine="--ntasks-per-node=2 --gpus-per-node=0" ;;
  *) machine= ;;
esac
exec {shutil.which("sbatch")} --cpus-per-task=1 $machine "$@" """,
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PYTEST"))}
    dead = "http://127.0.0.1:9"
    environment = kept | {
        "SLURM_CONF": slurm,
        "BERTPIPE_VENV": str(folder / "venv"),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        # n1 and n2 are names that no resolver knows.
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "HTTP_PROXY": dead,
        "HTTPS_PROXY": dead,
        "NO_PROXY": "127.0.0.1",
    }
    return Site(folder=folder, environment=environment)


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
