"""What SLURM, a person or a machine does to a job on the test cluster, from one moment to the next."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from workshop.cluster_runs import wait_until
from workshop.cluster_site import Site

NODES = ("n1", "n2")


def make_room(site: Site, job: int) -> None:
    """What SLURM does ahead of the time limit, asked for by a person."""
    site.run(f"scancel --signal=USR1 {job}")


def requeue(site: Site, job: int) -> None:
    site.run(f"scontrol requeue {job}")


def kill_ranks(site: Site, job: int, *nodes: str) -> None:
    for node in nodes:
        for pid in site.pids(job, node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def meet_the_time_limit(site: Site, job: int) -> None:
    """Let it come near while the ranks hold still: SLURM looks at limits every half minute."""
    pids = [pid for node in NODES for pid in site.pids(job, node)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    site.run(f"scontrol update jobid={job} TimeLimit=5")
    wait_until(lambda: all(map(_is_warned, pids)), lambda: site.output(job), seconds=90)
    # The next start has its time again.
    site.run(f"scontrol update jobid={job} TimeLimit=30")
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _is_warned(pid: int) -> bool:
    """Whether SIGUSR1 waits for a process that holds still."""
    with suppress(OSError):
        lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        pending = int(lines["ShdPnd"], 16) | int(lines["SigPnd"], 16)
        return bool(pending & 1 << (signal.SIGUSR1 - 1))
    return True


def processes(job: int, told_by: str) -> Iterator[int]:
    """The live processes of a job whose command line holds a word."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            of_job = f"SLURM_JOB_ID={job}\0".encode() in (entry / "environ").read_bytes()
            if of_job and told_by in line:
                yield int(entry.name)


def kill_processes(job: int, told_by: str) -> None:
    """`kill -9` of a job's processes with a word on their command lines."""
    found = list(processes(job, told_by))
    assert found, f"no process of job {job} has {told_by!r} on its command line"
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
