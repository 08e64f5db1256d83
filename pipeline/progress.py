"""What a person sees while a stage works: a bar on a terminal, plain lines when piped.

In: a title, a total, and calls of `advance`. Out: standard error; standard output stays for results.
What always holds: a pipe gets at most one line every few seconds and no control characters.

Example:
    with Progress("reading", total=4, unit="files") as progress:
        progress.advance(1, note="part-000.txt")
"""

import os
import sys
import time
from types import TracebackType
from typing import Any, Self, TextIO

_SECONDS_BETWEEN_LINES = 5.0


def say(line: str) -> None:
    """One line for the person who watches, on standard error."""
    write(f"{line}\n")


def write(text: str) -> None:
    """Text as it stands, on standard error; where nobody reads that any more, only the display is lost."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # a pipe whose reader has gone, a terminal that was closed, a full disk
        abandon(sys.stderr)


def abandon(stream: TextIO) -> None:
    """Have a stream that took no more swallow the rest.

    What is still buffered would fail again, here or in another's hands, at the latest when Python ends.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """A count on its way to `total`."""

    def __init__(self, title: str, *, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress as rich_progress
            from rich.console import Console

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description:<12}"),
                rich_progress.BarColumn(bar_width=30),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn(self._unit),
                rich_progress.TimeRemainingColumn(),
                rich_progress.TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, note="")
        return self

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """`count` more are done; `note` says something about the last of them."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._started) / max(1, self._done) * (self._total - self._done)
            line = f"{self._title}: {self._done}/{self._total} {self._unit}, {duration(left)} left  {note}"
            say(line.rstrip())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
