"""A script of this folder run as ranks of one world, each a process of its own.

In: the script, a folder that it reads and writes, a number of ranks. Out: nothing, once all have ended well. What
always holds: a rank that fails fails the test, with what it has said.
"""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.training.world import World, free_port


def run_ranks(script: str, folder: Path, ranks: int) -> None:
    """Start `script FOLDER RANK RANKS PORT` for each rank, and wait for all."""
    port = str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, script, str(folder), str(rank), str(ranks), port],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for rank in range(ranks)
    ]
    for process in started:
        said = process.communicate(timeout=200)[0]
        assert process.returncode == 0, said


def asked_for() -> tuple[Path, World]:
    """Inside such a script: the folder, and this rank's world."""
    folder, rank, ranks, port = sys.argv[1:]
    number = int(rank)
    world = World(
        rank=number,
        size=int(ranks),
        local_rank=number,
        local_size=int(ranks),
        address="127.0.0.1",
        port=int(port),
    )
    return Path(folder), world
