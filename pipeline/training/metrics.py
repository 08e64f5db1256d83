"""`metrics.jsonl`: one JSON object a step, the run's own record.

In: a mapping a step. Out: the file. What always holds: steps ascend and none stands twice; after a resume
the file is cut back to the checkpoint's step, since the steps after it are trained again, identically.

Example:
    {"step": 1, "epoch": 0, "loss": 9.7, …}
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

METRICS = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The steps on record; a line that a crash cut short ends the list."""
    path = run / METRICS
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


class Log(Protocol):
    """Takes the steps of a run; see the module's promises. `kept`: the steps on record from before."""

    kept: list[dict[str, Any]]

    def append(self, metrics: dict[str, Any]) -> None:
        """Write one step."""

    def sync(self) -> None:
        """Have what was written survive a power cut."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_log(run: Path, *, after: int, is_first: bool) -> Log:
    """The log of a run folder, beginning after step `after`; ranks but the first write nothing."""
    return MetricsLog(run, after=after) if is_first else NoLog()


class NoLog:
    """What the other ranks hold: takes steps and forgets them."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def append(self, metrics: dict[str, Any]) -> None:
        """Forget the step."""

    def sync(self) -> None:
        """Nothing was written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class MetricsLog:
    """Appends steps to `run/metrics.jsonl`, beginning after `step`."""

    def __init__(self, run: Path, *, after: int) -> None:
        kept = [line for line in read_metrics(run) if line["step"] <= after]
        path = run / METRICS
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self.kept = kept
        self._file = path.open("a", encoding="utf-8")

    def append(self, metrics: dict[str, Any]) -> None:
        """Write one step, readable by others at once."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Have what was written survive a power cut; called before each checkpoint."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
