"""A command run as a process, and what it cost: seconds, processor seconds, memory, disk.

In: a command. Out: its costs. What always holds: processor seconds are user and system time of the process and of all
that it started, as the kernel counts them (`wait4`); memory is what each process's own pages came to at their highest
(`VmHWM` of /proc/PID/status, mapped files included), looked at every 20 ms or so; looking takes 2 % of a core at most.

Example:
    cost = watch([sys.executable, "-m", "pipeline.cli", "--help"])
    print(cost.wall, cost.cpu, cost.peak)
"""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_EVERY = 0.02  # seconds
_SHARE = 0.02  # of a core, for looking


@dataclass(kw_only=True)
class Cost:
    """What a command cost.

    wall, cpu: seconds; cpu is user and system time of all its processes
    peaks: bytes, the highest of each process that was alive for a while, the command itself first
    spill: bytes, the most that lay in the watched folder
    output: what it printed
    """

    wall: float
    cpu: float
    peaks: list[int] = field(default_factory=list)
    spill: int = 0
    output: str = ""

    @property
    def peak(self) -> int:
        """Bytes of the largest of its processes."""
        return max(self.peaks)


def watch(command: Sequence[str], *, spills: Path | None = None) -> Cost:
    """Run a command to its end.

    spills: a folder, which may come and go, of whose Arrow files the most bytes are noted
    Raises RuntimeError where the command fails.
    """
    seen = _Seen(spills)
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    over = threading.Event()
    looking = threading.Thread(target=seen.look_until, args=(over, process.pid))
    looking.start()
    # wait4 before reading: what our commands print fits in a pipe.
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    over.set()
    looking.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stdout is not None
    with process.stdout as stream:
        output = stream.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(wall=wall, cpu=cpu, peaks=list(seen.peaks.values()), spill=seen.spill, output=output)


class _Seen:
    def __init__(self, spills: Path | None) -> None:
        self.peaks: dict[int, int] = {}
        self.spill = 0
        self._spills = spills

    def look_until(self, over: threading.Event, process: int) -> None:
        pause = 0.0
        while not over.wait(pause):
            began = time.thread_time()
            self._look(process)
            pause = max(_EVERY, (time.thread_time() - began) / _SHARE)

    def _look(self, process: int) -> None:
        found = [process]
        for each in found:
            try:
                tasks = Path(f"/proc/{each}/task")
                found += [
                    int(child)
                    for task in tasks.iterdir()
                    for child in (task / "children").read_text().split()
                ]
                lines = Path(f"/proc/{each}/status").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                continue
            peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
            self.peaks[each] = max(peak, self.peaks.get(each, 0))
        if self._spills is not None:
            self.spill = max(self.spill, _arrow_bytes(self._spills))


def _arrow_bytes(folder: Path) -> int:
    total = 0
    # Both the folder and its files may go at any moment.
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.name.endswith(".arrow"):
                with suppress(FileNotFoundError):
                    total += entry.stat().st_size
    return total
