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
from typing import IO, Any, Protocol, Self

from pipeline.errors import RunFailed

METRICS = "metrics.jsonl"
# Steps that a rollback took back, as they were.
ABANDONED = "abandoned.jsonl"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The steps on record; a line that a crash cut short ends the list."""
    return read_after(run, 0)


def read_after(run: Path, step: int, *, limit: int | None = None) -> list[dict[str, Any]]:
    """The steps on record after `step`, at most `limit`, sought by halving the file: it costs what it returns."""
    path = run / METRICS
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    with path.open("rb") as file:
        file.seek(_end_of(file, step))
        for line in file:
            if _step_of(line) == float("inf") or len(lines) == limit:
                break
            lines.append(json.loads(line))
    return lines


def _end_of(file: IO[bytes], step: int) -> int:
    """The byte after the line of the last step up to `step`; steps ascend, so it is sought by halving."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while low < high:
        start, line = _line_at(file, (low + high) // 2)
        if _step_of(line) <= step:
            low = start + len(line)
        else:
            high = start
    return low


def _line_at(file: IO[bytes], position: int) -> tuple[int, bytes]:
    """The line that holds the byte at `position`, and where it starts."""
    start, reach = 0, 512
    while position > 0:
        begin = max(0, position - reach)
        file.seek(begin)
        found = file.read(position - begin).rfind(b"\n")
        if found >= 0:
            start = begin + found + 1
            break
        if begin == 0:
            break
        reach *= 2
    file.seek(start)
    return start, file.readline()


def _step_of(line: bytes) -> float:
    """The line's step; beyond all steps where a crash cut it short."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


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


def open_log(run: Path, *, after: int, is_first: bool) -> Log:
    """The log of a run folder, beginning after step `after`; ranks but the first write nothing."""
    return MetricsLog(run, after=after) if is_first else NoLog()


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
    """Appends steps to `run/metrics.jsonl`, beginning after `step`."""

    def __init__(self, run: Path, *, after: int) -> None:
        self._path = run / METRICS
        with self._writing():
            self._file = self._path.open("ab+")
            # An append-only file is cut by its length alone: whole before, whole after.
            self._file.truncate(_end_of(self._file, after))
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
            end = _end_of(self._file, step)
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
