"""Local ranks: one process each, watched over by the command that started them.

In: the command's own arguments and a number of ranks. Out: the exit code of the whole. What always holds:
when a rank dies the others are ended too; when this process dies, by `kill -9` too, so do they; a stop
signal reaches every rank.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import pipeline
from pipeline.errors import Echo, RunFailed, Stopped
from pipeline.training.world import World, free_port

_ROOT = str(Path(pipeline.__file__).resolve().parents[1])
# Set for the ranks: the launcher's process id.
PARENT = "BERTPIPE_LAUNCHER"
_SECONDS_TO_END = 15.0
_SECONDS_BETWEEN_LOOKS = 0.1
_WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# A rank begins with these signals blocked, so that none finds Python half loaded; until training takes note of
# them they end it on the spot, without a word: a traceback from the middle of an import says nothing.
_RANK = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
from pipeline.cli import main
main()
"""


def launch(arguments: Sequence[str], ranks: int) -> None:
    """Run `bertpipe ARGUMENTS` as `ranks` local ranks until all have ended well.

    Raises Stopped where a signal ended them in good order, RunFailed where one failed.
    """
    port = free_port()
    children: list[subprocess.Popen[bytes]] = []
    stopped_by = 0

    def forward(signal_number: int, frame: FrameType | None) -> None:
        nonlocal stopped_by
        stopped_by = signal_number
        for child in children:
            if child.poll() is None:
                child.send_signal(signal_number)

    before = {number: signal.signal(number, forward) for number in _WATCHED}
    try:
        for rank in range(ranks):
            world = World(
                rank=rank, size=ranks, local_rank=rank, local_size=ranks, address="127.0.0.1", port=port
            )
            environment = os.environ | world.environment() | {PARENT: str(os.getpid())}
            # This very package, whatever folder the command was started in (-P keeps that one out).
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
            try:
                # A session of their own: Ctrl-C reaches them through `forward`, once.
                children.append(
                    subprocess.Popen(
                        [sys.executable, "-P", "-c", _RANK, *arguments],
                        env=environment,
                        start_new_session=True,
                    )
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if stopped_by:
                # It may have come too early to be forwarded to this one.
                children[-1].send_signal(stopped_by)
                break
        codes = _watch(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped_by and (any(codes) or len(children) < ranks):
        said = any(child.returncode == 128 + stopped_by for child in children)
        raise Stopped("" if said else _interrupted(stopped_by), stopped_by)
    _conclude(codes)


def _interrupted(stopped_by: int) -> str:
    name = signal.Signals(stopped_by).name
    return f"stopped by {name} between two checkpoints; run the same command again to continue"


def _watch(children: Sequence["subprocess.Popen[bytes]"]) -> list[int | None]:
    """The exit codes: of all ranks where all ended well, else those seen when the first one failed."""
    while True:
        # Looked at twice: a rank that loses a killed one ends after it, maybe between two looks.
        codes = [child.poll() for child in children]
        codes = [child.poll() for child in children]
        if any(codes):
            _end(children)
            return codes
        if all(code is not None for code in codes):
            return codes
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _end(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Give the other ranks a moment to end by themselves (they may be stopping too), then kill them."""
    until = time.monotonic() + _SECONDS_TO_END
    while any(child.poll() is None for child in children) and time.monotonic() < until:
        if any((child.poll() or 0) < 0 for child in children):
            break  # a rank that was killed answers nobody
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    for child in children:
        if child.poll() is None:
            child.kill()


def _conclude(codes: Sequence[int | None]) -> None:
    failed = {rank: code for rank, code in enumerate(codes) if code}
    if not failed:
        return
    for rank, code in failed.items():
        if code < 0:
            raise RunFailed(
                f"rank {rank} was ended by {signal.Signals(-code).name}; run the same command again, "
                "it resumes from the last checkpoint"
            )
    # The rank that failed has said why.
    raise Echo(next(iter(failed.values())))
