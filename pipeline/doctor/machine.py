"""The machine around the accelerators: cores, memory, shared memory, disks.

In: the kernel's own figures, folders that a run writes to. Out: findings. What always holds: what is written to
try a disk is removed again; a container's limits count, not the machine's own size.
"""

import fcntl
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.findings import Finding
from pipeline.processes import available_cores
from pipeline.training.host_memory import host_memory
from pipeline.training.memory import gib

_SHARED = Path("/dev/shm")
# A worker's ring holds a few micro-batches; Docker gives 64 MB, too little for NCCL beside them.
_LEAST_SHARED = 1 << 30
# A checkpoint of `base` takes 1.3 GB, of `large` 4 GB, and one more stands while a new one is written.
_LEAST_DISK = 10 << 30
_LEAST_FILES = 1024


def look_at_cores() -> Iterator[Finding]:
    """Cores and memory that this process may use."""
    cores = available_cores()
    memory = host_memory()
    yield Finding(
        name="cpu",
        state="ok",
        found=f"{cores} core(s), {gib(memory.available)} of memory free of {gib(memory.total)}"
        + (f" ({memory.limited_by})" if memory.limited_by else ""),
    )
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        yield Finding(
            name="open files",
            state="warning",
            found=f"{soft} at most",
            remedy=f"ulimit -n {_LEAST_FILES * 4}: shards, workers and connections are files",
        )


def look_at_shared_memory() -> Iterator[Finding]:
    """/dev/shm, through which dataloader workers and NCCL hand over what they make."""
    if not _SHARED.is_dir():
        yield judge_shared_memory(0)
        return
    figures = os.statvfs(_SHARED)
    yield judge_shared_memory(figures.f_bavail * figures.f_frsize)


def judge_shared_memory(free: int) -> Finding:
    """free: bytes left in /dev/shm."""
    good = free >= _LEAST_SHARED
    return Finding(
        name="shared memory",
        state="ok" if good else "warning",
        found=f"{gib(free)} free in {_SHARED}",
        remedy=""
        if good
        else "give containers more: docker run --shm-size=8g, or mount a larger tmpfs there",
    )


def look_at_disk(name: str, folder: Path, *, least: int = _LEAST_DISK) -> Iterator[Finding]:
    """Whether `folder` (or the nearest one above it that exists) has room, can be written, and locks files.

    least: bytes below which free space is a warning
    """
    there = next((one for one in (folder, *folder.absolute().parents) if one.is_dir()), Path("/"))
    try:
        figures = os.statvfs(there)
        trouble = _trouble(there)
    except OSError as error:
        yield Finding(
            name=name,
            state="error",
            found=f"{there}: {error.strerror}",
            remedy="name another folder, or mount it",
        )
        return
    if trouble:
        found, remedy = trouble
        yield Finding(name=name, state="error", found=f"{there}: {found}", remedy=remedy)
        return
    free = figures.f_bavail * figures.f_frsize
    yield Finding(
        name=name,
        state="ok" if free >= least else "warning",
        found=f"{gib(free)} free in {there}; files can be written and locked",
        remedy="" if free >= least else f"free some: {gib(least)} is what will soon be taken",
    )


def _trouble(folder: Path) -> tuple[str, str] | None:
    """What keeps `folder` from being written to or locked in, and the remedy."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".bertpipe-doctor-", dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
            try:
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return (
                    f"files can't be locked ({error.strerror})",
                    "mount it with locks (Lustre: -o flock; NFS: version 4), or take another disk",
                )
    except OSError as error:
        return f"can't be written to ({error.strerror})", "take another folder, or ask for write permission"
    return None
