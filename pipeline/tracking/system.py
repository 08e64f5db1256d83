"""What the machine does while a run trains: processors, memory, network and GPUs of one node, sampled now and then.

In: /proc (through psutil) and, where there is one, `nvidia-smi`. Out: a line a sample in `RUN/system/NODE.jsonl`, from
which the sender takes them. What always holds: figures have MLflow's own names, so that its page of system metrics
shows them; a figure that cannot be read is left out; samples are numbered on after a restart.

Example:
    sampler = Sampler(Path("RUNS/a"), "node1")
    sampler.sample()
"""

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.tracking.spool import end_of, place_of

FOLDER = "system"
_SECONDS_FOR_GPUS = 5.0
_GPU_FIGURES = {
    "utilization.gpu": "utilization_percentage",
    "memory.used": "memory_usage_megabytes",
    "memory.total": "",
    "power.draw": "power_usage_watts",
}
# What nvidia-smi calls megabytes are mebibytes; MLflow's are not.
_MEBIBYTE = 1.048576


class Sampler:
    """Samples this node into `run/system/NODE.jsonl`."""

    def __init__(self, run: Path, node: str) -> None:
        self._path = run / FOLDER / f"{node}.jsonl"
        self._gpus = True
        self._network = psutil.net_io_counters()
        # It says how busy the processors were since it was asked last.
        psutil.cpu_percent()
        self._last = 0

    def sample(self) -> None:
        """Append one sample; a disk that refuses it costs only that."""
        with suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab+") as file:
                self._last = self._last or _mend(file)
                self._last += 1
                line = {"step": self._last, "time": round(time.time(), 3), **self.figures()}
                file.write(json.dumps(line).encode() + b"\n")

    def figures(self) -> dict[str, float]:
        """What can be read now, by MLflow's names."""
        memory, network = psutil.virtual_memory(), psutil.net_io_counters()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": round(memory.used / 1e6, 1),
            "system_memory_usage_percentage": round(memory.used / memory.total * 100, 1),
        }
        if network is not None and self._network is not None:
            found["network_receive_megabytes"] = round(
                (network.bytes_recv - self._network.bytes_recv) / 1e6, 3
            )
            found["network_transmit_megabytes"] = round(
                (network.bytes_sent - self._network.bytes_sent) / 1e6, 3
            )
        return found | (self._of_gpus() if self._gpus else {})

    def _of_gpus(self) -> dict[str, float]:
        command = [
            "nvidia-smi",
            f"--query-gpu=index,{','.join(_GPU_FIGURES)}",
            "--format=csv,noheader,nounits",
        ]
        try:
            said = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS_FOR_GPUS, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            self._gpus = False  # there are none, or they can't be asked
            return {}
        return gpu_figures(said)


def gpu_figures(said: str) -> dict[str, float]:
    """What `nvidia-smi` said, a line a GPU; what it doesn't know (`[N/A]`) is left out."""
    found: dict[str, float] = {}
    for line in said.splitlines():
        index, *values = (value.strip() for value in line.split(","))
        known: dict[str, float] = {}
        for name, value in zip(_GPU_FIGURES, values, strict=False):
            with suppress(ValueError):
                known[name] = float(value) * (_MEBIBYTE if name.startswith("memory") else 1.0)
        for name, shown in _GPU_FIGURES.items():
            if shown and name in known:
                found[f"gpu_{index}_{shown}"] = round(known[name], 1)
        if known.get("memory.total") and "memory.used" in known:
            share = known["memory.used"] / known["memory.total"]
            found[f"gpu_{index}_memory_usage_percentage"] = round(share * 100, 1)
    return found


def _mend(file) -> int:  # type: ignore[no-untyped-def]
    """Cut off a line that a crash left half written; returns the number of the last whole one."""
    end = end_of(file, lambda place: place == (float("inf"), float("inf")))
    file.truncate(end)
    file.seek(max(0, end - 4096))
    lines = file.read().splitlines(keepends=True)
    return int(place_of(lines[-1])[1]) if lines else 0
