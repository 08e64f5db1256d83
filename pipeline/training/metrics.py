"""`metrics.jsonl`: one JSON object a step, the run's own record.

In: a mapping a step. Out: the file. What always holds: steps ascend and none stands twice; after a resume
the file is cut back to the checkpoint's step, since the steps after it are trained again, identically.

Example:
    {"step": 1, "epoch": 0, "loss": 9.7, …}
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pipeline.errors import RunFailed
from pipeline.tracking.spool import METRICS, end_of, read_after, read_metrics

# Steps that a rollback took back, as they were.
ABANDONED = "abandoned.jsonl"
__all__ = ["ABANDONED", "METRICS", "Log", "MetricsLog", "NoLog", "open_log", "read_after", "read_metrics"]


class Log(Protocol):
    """Takes the steps of a run; see the module's promises."""

    def append(self, metrics: dict[str, Any]) -> None:
        """Write one step."""

    def sync(self) -> None:
        """Have what was written survive a power cut."""

    def cut_back(self, step: int) -> None:
        """Take out the steps after `step`, of which the run was rolled back; they are kept elsewhere."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_log(run: Path, *, after: int, is_first: bool, name: str = METRICS) -> Log:
    """The log of a run folder, beginning after step `after`; ranks but the first write nothing."""
    return MetricsLog(run, after=after, name=name) if is_first else NoLog()


class NoLog:
    """What the other ranks hold: takes steps and forgets them."""

    def append(self, metrics: dict[str, Any]) -> None:
        """Forget the step."""

    def sync(self) -> None:
        """Nothing was written."""

    def cut_back(self, step: int) -> None:
        """Nothing was written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class MetricsLog:
    """Appends steps to `run/metrics.jsonl` (or another file of lines with steps), beginning after `after`."""

    def __init__(self, run: Path, *, after: int, name: str = METRICS) -> None:
        self._path = run / name
        with self._writing():
            self._file = self._path.open("ab+")
            # An append-only file is cut by its length alone: whole before, whole after.
            self._file.truncate(end_of(self._file, lambda place: place[1] > after))
            os.fsync(self._file.fileno())

    def append(self, metrics: dict[str, Any]) -> None:
        """Write one step, readable by others at once.

        Raises RunFailed where the disk refuses.
        """
        with self._writing():
            self._file.write(json.dumps(metrics).encode() + b"\n")
            self._file.flush()

    def sync(self) -> None:
        """Have what was written survive a power cut; called before each checkpoint."""
        with self._writing():
            os.fsync(self._file.fileno())

    def cut_back(self, step: int) -> None:
        """Move the steps after `step` to `abandoned.jsonl`: from there the run goes another way."""
        with self._writing():
            end = end_of(self._file, lambda place: place[1] > step)
            self._file.seek(end)
            left = self._file.read()
            with self._path.with_name(ABANDONED).open("ab") as file:
                file.write(left)
            self._file.truncate(end)
            os.fsync(self._file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFailed(
                f"cannot write {self._path}: {error.strerror}; free some room and run the same command again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What could not be written has been said; a second failure here would only hide it.
        with suppress(OSError):
            self._file.close()
