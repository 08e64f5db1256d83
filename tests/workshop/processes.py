"""Real runs as processes: started, waited for, looked at, killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.training.metrics import read_metrics

# What a step's record must repeat after a resume; the rest is about time.
LEARNED = (
    "step", "epoch", "samples", "tokens", "loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy",
    "learning_rate", "gradient_norm",
)  # fmt: skip
# Of whatever objective, held out and not.
_FIGURES = ("_loss", "_accuracy", "_perplexity")
CONTRACT = {
    *LEARNED, "sequences_per_second", "tokens_per_second", "mfu", "matmul_flops_per_second", "data_wait_share",
}  # fmt: skip


def learned(run: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name in LEARNED or name.endswith(_FIGURES)}
        for line in read_metrics(run)
    ]


def begin(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", "pretrain", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for_step(run: Path, step: int, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 120
    while not any(line["step"] >= step for line in read_metrics(run)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "the run never came to its step"
        time.sleep(0.02)


def parent_of(pid: int) -> int | None:
    """The parent of a live process."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)


def descendants(pid: int) -> list[int]:
    """Live children of a process, and theirs."""
    parents = {
        int(entry.name): parent_of(int(entry.name))
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
    }
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


def processes_of(run: Path) -> list[int]:
    """Live processes that mention the run folder on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (
                    str(run).encode() in (entry / "cmdline").read_bytes()
                    and parent_of(int(entry.name)) is not None
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def kill_all(run: Path) -> None:
    """`kill -9` of everything that trains in a run folder."""
    for pid in processes_of(run):
        os.kill(pid, signal.SIGKILL)


def wait_for_checkpoint(run: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """A checkpoint is written while training goes on, so it is there some steps after its own.

    It is whole once renamed, but `latest` names it a moment later: a kill between the two leaves no `latest`.
    """
    until = time.monotonic() + 120
    latest = run / "checkpoints" / "latest"
    while not latest.exists() or latest.resolve().name < f"step-{step:08d}":
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "the checkpoint never came"
        time.sleep(0.02)
