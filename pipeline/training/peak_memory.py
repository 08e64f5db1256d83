"""The most memory that a process, or its GPU, has held since a moment of one's choice.

In: a device. Out: bytes. What always holds: on a GPU they are what torch has allocated, on a CPU what of the process
lies in memory, libraries and all, what was let go of before not counted; where a system keeps no such record, that is
said and nothing is claimed.

Example:
    peak = PeakMemory("cpu"); peak.reset(); …; peak.read()  # 612000000
"""

import ctypes
from contextlib import suppress
from pathlib import Path


class PeakMemory:
    """Of this process on one device.

    kind: what `read` counts: `resident` or `allocated` memory; empty where the system can't tell
    """

    def __init__(self, device: str, process: Path = Path("/proc/self")) -> None:
        """process: where the system says what this process does."""
        self._device = device if device.startswith("cuda") else None
        self._process = process
        self.kind = "allocated" if self._device else "resident"

    def reset(self) -> None:
        """Forget what was; the most is what is held now."""
        if self._device:
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
            return
        # glibc keeps what is freed for later; another C library may not know the word.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        try:
            # Linux, proc(5): 5 resets the "high water mark" of resident memory.
            (self._process / "clear_refs").write_text("5")
        except OSError:
            self.kind = ""

    def read(self) -> int | None:
        """The most since `reset`, in bytes; None where the system can't tell."""
        if self._device:
            import torch

            return int(torch.cuda.max_memory_allocated(self._device))
        if not self.kind:
            return None
        try:
            lines = (self._process / "status").read_text().splitlines()
        except OSError:
            return None
        found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(found[0]) * 1024 if found else None
