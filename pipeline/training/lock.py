"""The lock of a run folder: one process trains in it, and a dead one loses it.

In: a run folder. Out: a `RunLock`, held until it is closed or its process ends. What always holds: of two starts in one
folder at most one trains. On one host the file lock (flock) decides, at once. Between hosts, on disks whose locks don't
span them, the owner's record does: who holds the lock rewrites it every ten seconds, and where it has not moved for a
minute its owner is dead. That is seen by watching it change, so clocks need not agree. Who finds the record taken over
by another ends on the spot.

Example:
    lock = take(Path("RUNS/base"))
    lock.close()
"""

import fcntl
import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import BertpipeError, InputError, RunFailed
from pipeline.process_identity import is_alive, is_on_this_kernel, this_process
from pipeline.progress import complain, say

LOCK = ".lock"
# Records have one size, so that a new one replaces the old in one write.
_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Seconds.

    beat: between two signs of life
    expiry: without one, after which an owner on another host is dead
    look: between two looks at the owner
    orphans: that the children of a dead owner on this host have to end
    ancient: age by the clocks, past which they would have to differ by more than they ever do
    """

    beat: float = 10.0
    expiry: float = 60.0
    look: float = 1.0
    orphans: float = 10.0
    ancient: float = 3600.0


class RunLock:
    """The lock of a run folder, held; see the module's promises."""

    def __init__(self, run: Path, file: int, lease: Lease) -> None:
        self._run, self._file, self._lease = run, file, lease
        self._record = this_process() | {
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._beats = 0
        self._write()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the folder back: the next owner, on whatever host, need not wait."""
        self._closed.set()
        self._thread.join()
        if self.is_ours():
            with suppress(OSError):
                os.ftruncate(self._file, 0)
        os.close(self._file)

    def is_ours(self) -> bool:
        """Whether nobody has taken the folder over; a record that cannot be read says nothing against it."""
        try:
            owner = _owner((self._run / LOCK).read_bytes())
        except OSError:
            return True
        return owner is None or all(owner.get(name) == value for name, value in self._record.items())

    def _beat(self) -> None:
        while not self._closed.wait(self._lease.beat):
            if not self.is_ours():
                complain(
                    f"bertpipe: {self._run} was taken over by another process while this one slept; it ends here"
                )
                # Nothing more may be written, by no thread of this process.
                os._exit(RunFailed.exit_code)
            # A disk that refuses for a moment is asked again; if it is a minute, another may take the folder over.
            with suppress(OSError):
                self._write()

    def _write(self) -> None:
        self._beats += 1
        text = json.dumps(self._record | {"beats": self._beats, "time": time.time()})
        os.pwrite(self._file, text.encode().ljust(_BYTES - 1) + b"\n", 0)
        # Other hosts see what has reached the disk.
        os.fsync(self._file)


def take(run: Path, lease: Lease | None = None) -> RunLock:
    """Lock a run folder.

    Raises InputError where another process trains in it, RunFailed where the disk cannot lock or a dead owner's lock
    outlives it.
    """
    lease = lease or Lease()
    try:
        file = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunFailed(f"cannot write {run / LOCK}: {error.strerror}; make {run} writable") from error
    try:
        waited = _wait_for(run, file, lease)
        lock = RunLock(run, file, lease)
    except BaseException:
        os.close(file)
        raise
    if waited:
        # Another may have waited for the same owner to die, on a disk whose locks neither sees of the other.
        time.sleep(2 * lease.look)
        if not lock.is_ours():
            lock.close()
            raise _taken(run, _owner((run / LOCK).read_bytes()))
    return lock


def _wait_for(run: Path, file: int, lease: Lease) -> bool:
    """Return once nobody owns the folder; whether that took watching an owner on another host die."""
    began = time.monotonic()
    first = (run / LOCK).read_bytes()
    told = False
    while True:
        locked = _flock(run, file)
        # By its path: on a network's disk that asks the server anew.
        now = (run / LOCK).read_bytes()
        owner = _owner(now)
        waited = time.monotonic() - began
        if owner is None or is_on_this_kernel(owner):
            if locked:
                return told
            # Processes of a dead owner's, which share its lock, are about to end.
            orphaned = owner is not None and is_alive(owner) is False
            if not orphaned or waited > lease.orphans:
                raise _taken(run, owner)
        else:
            if now != first:
                raise _taken(run, owner)
            if locked and (waited > lease.expiry or time.time() - _number(owner, "time") > lease.ancient):
                return True
            if waited > 3 * lease.expiry:
                raise RunFailed(
                    f"{run} is locked by {_who(owner)}, which gives no sign of life; unmount its disk there, then run "
                    "the same command again"
                )
            if not told:
                say(f"{run} was left by {_who(owner)}; waiting {lease.expiry:.0f} s for a sign of life")
                told = True
        time.sleep(min(lease.look, 0.1) if waited < 1 else lease.look)


def _flock(run: Path, file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RunFailed(
            f"the disk of {run} cannot lock files ({error.strerror}); mount it with locks, or use another"
        ) from error
    return True


def _owner(content: bytes) -> dict[str, Any] | None:
    """What the lock's file says; None where nobody is named."""
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _taken(run: Path, owner: Mapping[str, Any] | None) -> BertpipeError:
    message = f"{run} is being trained by {_who(owner)}; wait for it, or name another run"
    job = os.environ.get("SLURM_JOB_ID")
    # An earlier start of this very job, on a node that the others have lost: SLURM may start it again later.
    return RunFailed(message) if job and owner and owner.get("slurm_job") == job else InputError(message)


def _who(owner: Mapping[str, Any] | None) -> str:
    if owner is None:
        return "another process"
    job = f" of SLURM job {owner['slurm_job']}" if owner.get("slurm_job") else ""
    return f"another process: {owner.get('pid')} on {owner.get('host')}{job}, since {owner.get('since')}"


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
