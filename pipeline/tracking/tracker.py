"""What a training holds of its record: a process of its own that sends what `metrics.jsonl` has.

In: a recipe's policy, a run folder, what is told once (`RunRecord`), this rank's place. Out: a context that a training
lives in. What always holds: training never waits for the server, nor ends because of it, and does nothing for it but
write its own files; at its end what is left is waited for, a while; a sender that died is replaced by another, which
sends what it missed.

Example:
    with open_tracker(policy, run, record, is_first=True, samples=True, node="node"):
        train()
"""

import json
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pipeline
from pipeline.errors import Stopped
from pipeline.policies import TrackingPolicy
from pipeline.progress import say
from pipeline.tracking.record import RunRecord, Status
from pipeline.tracking.run_page import not_taken, without_secrets
from pipeline.tracking.server import tracking_uri

# The name of the pipeline that a command belongs to.
PIPELINE = "BERTPIPE_PIPELINE"
_ROOT = str(Path(pipeline.__file__).resolve().parents[1])
_MAIN = "from pipeline.tracking.sending import main; main()"
# At the end of a run: how long to wait for a server that takes what is left.
_SECONDS_TO_FINISH = 60.0
# After a stop signal: less than a launcher gives its ranks to end.
SECONDS_AFTER_A_STOP = 10.0
# For the sender to say why it goes, before it is ended.
_SECONDS_TO_SAY_SO = 2.0


def node_name() -> str:
    """This node's name: SLURM's, where nodes may share a machine, else the machine's."""
    return (os.environ.get("SLURMD_NODENAME") or platform.node() or "node").replace("/", "-")


class Tracker(Protocol):
    """Lives as long as a training; see the module's promises."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NoTracker:
    """Tracking switched off, and every rank that has nothing to tell."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


def open_tracker(
    policy: TrackingPolicy,
    run: Path,
    record: RunRecord,
    *,
    is_first: bool,
    samples: bool = False,
    node: str = "",
) -> Tracker:
    """The tracker of a run folder; what `metrics.jsonl` holds and the server doesn't is sent first.

    samples: whether this rank has its node watched, `node` being its name in the record
    """
    if policy.experiment is None or not (is_first or samples):
        return NoTracker()
    order: dict[str, Any] = {"run": str(run.absolute()), "node": node if samples else ""}
    if is_first:
        order |= {
            "experiment": policy.experiment,
            "uri": tracking_uri(policy, run),
            "pipeline": os.environ.get(PIPELINE, ""),
            "record": asdict(record),
        }
    return ProcessTracker(run, order)


class ProcessTracker:
    """Has a process send the run's record and sample its node.

    order: see `sending`; it goes through a pipe, since an address may hold a password
    """

    def __init__(self, run: Path, order: dict[str, Any]) -> None:
        self._run, self._order = run, order
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, Stopped)
        status: Status = "FINISHED" if kind is None else "KILLED" if stopped else "FAILED"
        self._finish(status, SECONDS_AFTER_A_STOP if stopped else _SECONDS_TO_FINISH)

    @property
    def process_id(self) -> int:
        """Of the process that sends; 0 where there is none."""
        return self._process.pid if self._process is not None else 0

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": _ROOT, "OMP_NUM_THREADS": "1"},
                # Ctrl-C is for the ranks.
                start_new_session=True,
            )
        except OSError as error:  # no memory, too many processes
            say(
                f"warning: no process to send this run's steps ({error.strerror}); they are kept in {self._run}"
            )
            return
        self._tell(self._order | {"parent": os.getpid()})

    def _tell(self, value: dict[str, Any]) -> None:
        # A sender that died is found at the end.
        with suppress(OSError, ValueError):
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()

    def _finish(self, status: Status, patience: float) -> None:
        sends = "uri" in self._order
        until = time.monotonic() + patience + _SECONDS_TO_SAY_SO
        for _ in range(2):
            if self._process is None or self._process.poll() is not None:
                if not sends:
                    return
                self._start()
            if self._process is None:
                return
            self._tell({"status": status, "patience": patience})
            try:
                if self._process.wait(max(0.1, until - time.monotonic())) == 0:
                    return
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                break
        if sends:
            say(not_taken(without_secrets(self._order["uri"]), self._run))
