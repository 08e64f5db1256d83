"""Which process something belongs to, said so that other processes, here or on other nodes, can tell whether it lives.

In: nothing. Out: a few plain values that fit into a JSON file, and what they say when they are read again. What always
holds: a process is never taken for another that got its number later; what another kernel runs is not guessed at.

Example:
    record = this_process()
    is_alive(record)  # True; None where it runs on another node
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# State and start, in clock ticks since the kernel booted, counted from behind the process's name (proc(5)).
_STATE, _BEGAN = 0, 19


def this_process() -> dict[str, Any]:
    """This process: host's name, the kernel's boot, the space of process ids, id, start."""
    stat = _stat("self")
    return {
        "host": platform.node(),
        "boot": _boot(),
        "pids": _pids(),
        "pid": os.getpid(),
        "began": stat[_BEGAN] if stat else "",
    }


def is_on_this_kernel(record: Mapping[str, Any]) -> bool:
    """Whether the process runs, or ran, under the kernel that runs this one, in a container or not."""
    return bool(record.get("boot")) and record["boot"] == _boot()


def is_alive(record: Mapping[str, Any]) -> bool | None:
    """Whether the process still runs; None where that cannot be seen from here."""
    if not is_on_this_kernel(record) or record.get("pids") != _pids():
        return None
    stat = _stat(str(record.get("pid")))
    # What nobody has reaped, as in containers whose process 1 reaps nothing, has ended all the same.
    return stat is not None and stat[_STATE] not in "ZX" and stat[_BEGAN] == record.get("began")


def _stat(process: str) -> list[str] | None:
    try:
        # The name, in brackets, may hold blanks and brackets.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # no Linux: a host is its name
        return platform.node()


def _pids() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
