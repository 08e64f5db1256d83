"""The process that sends: it shares no interpreter with the training that it records, and does not outlive it.

In: on standard input one JSON line that says what to send, and another when the run has ended. Out: a run on a server,
samples of this node in `RUN/system/`, warnings on standard error. What always holds: it dies with the rank that started
it; signals meant for the ranks leave it alone; an exit code of 0 says that all was taken, or was said not to be.

Example:
    {"parent": 4711, "run": "RUNS/a", "node": "node", "experiment": "bertpipe", "uri": "http://…", "record": {…}}
    {"status": "FINISHED", "patience": 60.0}
"""

import json
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.processes import die_with_parent
from pipeline.tracking.record import RunRecord, StageRecord
from pipeline.tracking.sender import Sender
from pipeline.tracking.system import Sampler

_SECONDS_BETWEEN_SAMPLES = 15.0
_SECONDS_TO_THE_FIRST = 3.0
# Whoever computes goes first.
_NICENESS = 10
_LEFT_TO_THE_RANKS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def main() -> None:
    """Send, and sample, until the run has ended."""
    for number in _LEFT_TO_THE_RANKS:
        signal.signal(number, signal.SIG_IGN)
    told = _Told(sys.stdin.fileno())
    order = told.value()
    if order is None:  # the rank died before it could say what to do
        return
    die_with_parent(order["parent"])
    with suppress(OSError):
        os.nice(_NICENESS)
    run = Path(order["run"])
    sampler = Sampler(run, order["node"]) if order["node"] else None
    sender = _sender(run, order) if "uri" in order else None
    if sender is not None:
        sender.__enter__()
    end = _until_the_end(told, sampler)
    if sender is not None and end is not None:
        # Lowered for the ranks' sake; they are done.
        sender.finish(end["status"], patience=end["patience"])
    sys.stderr.flush()
    # A thread that waits for a server that does not answer is left behind.
    os._exit(0)


def _sender(run: Path, order: dict[str, Any]) -> Sender:
    record = order["record"]
    stages = [StageRecord(**stage) for stage in record.pop("stages")]
    return Sender(
        order["experiment"],
        order["uri"],
        run,
        RunRecord(**record, stages=stages),
        pipeline=order["pipeline"],
    )


class _Told:
    """The values that the rank says, a line each; read without a buffer that would hide one from `select`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._read = b""

    def waits(self, seconds: float | None) -> bool:
        """Whether nothing more is said within so many seconds (None: however long it takes)."""
        return b"\n" not in self._read and not select.select([self._descriptor], [], [], seconds)[0]

    def value(self) -> dict[str, Any] | None:
        """The next value; None where the rank says nothing any more."""
        while b"\n" not in self._read:
            more = os.read(self._descriptor, 1 << 16)
            if not more:
                return None
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return dict(json.loads(line))


def _until_the_end(told: _Told, sampler: Sampler | None) -> dict[str, Any] | None:
    """What the rank says at the end; None where it says nothing any more."""
    wait = _SECONDS_TO_THE_FIRST
    while told.waits(wait if sampler else None):
        if sampler is not None:
            sampler.sample()
        wait = _SECONDS_BETWEEN_SAMPLES
    if sampler is not None:
        sampler.sample()
    return told.value()
