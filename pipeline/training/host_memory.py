"""How much of this node's memory a process may take.

In: /proc/meminfo and the control groups that this process is in. Out: `HostMemory`. What always holds: a limit that
a container or a SLURM job sets counts, since the kernel ends what goes over it; where nothing can be read, nothing
is claimed.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Bytes.

    total: that processes here may have in all
    available: of these, what is free or can be made so
    limited_by: what sets the limit, where that isn't the machine's size
    """

    total: int
    available: int
    limited_by: str = ""


def host_memory(root: Path = Path("/")) -> HostMemory:
    """The memory of this node that this process may use; zeros where it can't be told.

    root: where /proc and /sys lie
    """
    found: dict[str, str] = dict(
        re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), flags=re.MULTILINE)
    )
    total = int(found.get("MemTotal", 0)) * 1024
    available = int(found.get("MemAvailable") or found.get("MemFree") or 0) * 1024
    if not total and str(root) == "/" and hasattr(os, "sysconf"):
        total = available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limited_by = ""
    for limit, used in _group_limits(root):
        if limit < total:
            total, limited_by = limit, "a control group's limit"
        available = min(available, max(0, limit - used))
    return HostMemory(total=total, available=available, limited_by=limited_by)


def _group_limits(root: Path) -> list[tuple[int, int]]:
    """(limit, in use) of each control group that this process is in, and of those around it."""
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inner = base / path.strip("/")
        # Inside a container the path may be the host's, which isn't to be seen here: the mount's own top is.
        groups = {inner, *(one for one in inner.parents if one.is_relative_to(base)), base}
        for group in groups:
            limit, used = (_text(group / name).strip() for name in names)
            if limit.isdigit():
                # The page cache is counted as used, and is given back when needed.
                cache = re.search(
                    r"^(?:total_)?inactive_file (\d+)", _text(group / "memory.stat"), re.MULTILINE
                )
                taken = int(used) if used.isdigit() else 0
                limits.append((int(limit), max(0, taken - (int(cache[1]) if cache else 0))))
    return limits


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
