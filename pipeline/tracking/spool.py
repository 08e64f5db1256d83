"""Files of JSON lines that a run appends to and others read: its steps wait here for who wants them.

In: `RUN/metrics.jsonl` (a line a step), `RUN/predictions.jsonl` (a line an evaluation), `RUN/system/NODE.jsonl` (a
line a sample). Out: the lines after a given one. What always holds: reading costs what it returns, since lines ascend
and the first one is sought by halving the file; a line that a crash cut short ends the list; nothing is written.

Where a run was rolled back to a checkpoint and went on with other data, its lines say which history they belong to:
`"branch": 1` after the first time. Lines ascend by (branch, step), and by step alone, too.

Example:
    read_after(Path("RUNS/a"), 100)  # [{"step": 101, "loss": 9.7, …}, …]
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

METRICS = "metrics.jsonl"
PREDICTIONS = "predictions.jsonl"

Place = tuple[float, float]
"""Branch and step of a line."""


def objects_in(lines: Iterable[str | bytes]) -> list[dict[str, Any]]:
    """The JSON objects among lines; those that were cut short, and what else is none, are passed over."""
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The steps on record; a line that a crash cut short ends the list."""
    return read_after(run, 0)


def read_after(run: Path, step: int, *, limit: int | None = None) -> list[dict[str, Any]]:
    """The steps on record after `step`, at most `limit`."""
    return read_lines(run / METRICS, beyond=lambda place: place[1] > step, limit=limit)


def read_unsent(path: Path, sent: Place, *, limit: int | None = None) -> list[dict[str, Any]]:
    """The lines after (branch, step), at most `limit`: a later branch begins again at smaller steps."""
    return read_lines(path, beyond=lambda place: place > sent, limit=limit)


def read_lines(
    path: Path, *, beyond: Callable[[Place], bool] = lambda place: True, limit: int | None = None
) -> list[dict[str, Any]]:
    """The lines of a file from the first one on whose place is `beyond`, at most `limit`."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    with path.open("rb") as file:
        file.seek(end_of(file, beyond))
        for line in file:
            if place_of(line) == _TORN or len(lines) == limit:
                break
            lines.append(json.loads(line))
    return lines


def read_thinned(path: Path, *, most: int, keep: bytes) -> Iterator[dict[str, Any]]:
    """About `most` of a file's lines, evenly spread, and all in which `keep` stands; read one at a time."""
    if not path.exists():
        return
    with path.open("rb") as file:
        length, size = len(file.readline()) or 1, file.seek(0, os.SEEK_END)
        every = max(1, size // length // most)
        file.seek(0)
        for number, line in enumerate(file):
            if number % every and keep not in line:
                continue
            if place_of(line) == _TORN:
                return
            yield json.loads(line)


def end_of(file: IO[bytes], beyond: Callable[[Place], bool]) -> int:
    """The byte at which the first line begins whose place is `beyond`."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while low < high:
        start, line = _line_at(file, (low + high) // 2)
        if beyond(place_of(line)):
            high = start
        else:
            low = start + len(line)
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


_TORN = (float("inf"), float("inf"))


def place_of(line: bytes) -> Place:
    """The line's branch and step; beyond all of them where a crash cut it short."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else {}
        return float(value.get("branch", 0)), float(value["step"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return _TORN
