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
from types import FrameType

from pipeline.errors import BertpipeError, RunFailed, Stopped
from pipeline.training.world import World, free_port

# Set for the ranks: the launcher's process id.
PARENT = "BERTPIPE_LAUNCHER"
_SECONDS_TO_END = 15.0
_SECONDS_BETWEEN_LOOKS = 0.1


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

    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, forward) for number in watched}
    try:
        for rank in range(ranks):
            world = World(
                rank=rank, size=ranks, local_rank=rank, local_size=ranks, address="127.0.0.1", port=port
            )
            environment = os.environ | world.environment() | {PARENT: str(os.getpid())}
            # A session of their own: Ctrl-C reaches them through `forward`, once.
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "pipeline.cli", *arguments],
                    env=environment,
                    start_new_session=True,
                )
            )
        codes = _watch(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    _conclude(codes, stopped_by)


def _watch(children: Sequence["subprocess.Popen[bytes]"]) -> list[int]:
    """The exit codes, once all have ended; a failure ends the others."""
    failed_at: float | None = None
    while True:
        codes = [child.poll() for child in children]
        if all(code is not None for code in codes):
            return [code for code in codes if code is not None]
        now = time.monotonic()
        if failed_at is None and any(codes):
            failed_at = now
            # The others may be about to fail of the same cause, or to stop at the same signal: let them.
        elif failed_at is not None and now - failed_at > _SECONDS_TO_END:
            for child in children:
                if child.poll() is None:
                    child.kill()
        elif failed_at is not None and any(code and code < 0 for code in codes):
            # A rank that was killed cannot answer; the others would wait for it for ever.
            for child in children:
                if child.poll() is None:
                    child.kill()
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _conclude(codes: Sequence[int], stopped_by: int) -> None:
    if not any(codes):
        return
    if stopped_by and all(code in (0, 128 + stopped_by) for code in codes):
        raise Stopped("", stopped_by)
    killed = [(rank, -code) for rank, code in enumerate(codes) if code < 0]
    own = [code for code in codes if code > 0]
    if own:
        # The rank that failed has said why.
        raise _Said(own[0])
    rank, number = killed[0]
    raise RunFailed(
        f"rank {rank} was ended by {signal.Signals(number).name}; run the same command again, "
        "it resumes from the last checkpoint"
    )


class _Said(BertpipeError):
    """A failure that a rank has already explained; carries the exit code only."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code
