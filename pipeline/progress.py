"""What a person, or a job's log, sees while a stage works.

In: a title, a total, and calls of `advance`; lines to say; a summary. Out: standard error, in the form chosen for this
process: a bar on a terminal and plain lines when piped (`auto`), nothing but errors (`quiet`), or a JSON object a
line (`json`). Standard output stays for results.
What always holds: a pipe gets at most one line every few seconds (as JSON also one as a part ends) and no control
characters; an error is told in every form.

Example:
    with Progress("reading", total=4, unit="files") as progress:
        progress.advance(1, note="part-000.txt")
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TextIO

Form = Literal["auto", "quiet", "json"]

_SECONDS_BETWEEN_LINES = 5.0

_form: Form = "auto"


def choose_form(form: Form) -> None:
    """How this process tells what it does, from here on."""
    global _form
    _form = form


def say(line: str) -> None:
    """One line for the person who watches, on standard error."""
    if _form == "json":
        _write_object({"note": line})
    elif _form == "auto":
        write(f"{line}\n")


def complain(line: str) -> None:
    """An error's one line, on standard error, in every form."""
    if _form == "json":
        _write_object({"error": line})
    else:
        write(f"{line}\n")


def summarise(lines: Iterable[str], facts: Mapping[str, Any]) -> None:
    """What came of it: lines for a person, facts for a machine."""
    if _form == "json":
        _write_object({"summary": facts})
    else:
        for line in lines:
            say(line)


def _write_object(value: Mapping[str, Any]) -> None:
    write(f"{json.dumps(value, ensure_ascii=False)}\n")


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
    """A count on its way to `total`; whole numbers, or megabytes and the like with a fraction."""

    def __init__(self, title: str, *, total: float, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done: float = 0
        self._figures: dict[str, Any] = {}
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if _form == "auto" and sys.stderr.isatty():
            from rich import progress as rich_progress
            from rich.console import Console

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description:<12}"),
                rich_progress.BarColumn(bar_width=30),
                rich_progress.TextColumn("{task.fields[done]}"),
                rich_progress.TimeRemainingColumn(),
                rich_progress.TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, done=self._counted(), note="")
        return self

    def advance(self, count: float = 1, *, note: str = "", **figures: Any) -> None:
        """`count` more are done; `note` says something about them to a person, `figures` to a machine."""
        self._done += count
        self._figures = figures
        if self._bar is not None:
            self._bar.update(self._task, advance=count, done=self._counted(), note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            if _form == "json":
                self._write_figures()
            else:
                left = duration(self._seconds_left(now))
                say(f"{self._title}: {self._counted()}, {left} left  {note}".rstrip())

    def _seconds_left(self, now: float) -> float:
        return (now - self._started) * max(0.0, self._total / self._done - 1) if self._done else 0.0

    def _counted(self) -> str:
        """`3/9 shards`, `1.5/35.2 MB`."""
        shape = "{:,}" if isinstance(self._total, int) else "{:,.1f}"
        return f"{shape.format(self._done)}/{shape.format(self._total)} {self._unit}"

    def _write_figures(self) -> None:
        now = time.monotonic()
        _write_object(
            {
                "stage": self._title,
                "done": round(self._done, 3),
                "total": round(self._total, 3),
                "unit": self._unit,
                "seconds": round(now - self._started, 3),
                "seconds_left": round(self._seconds_left(now), 3),
                **self._figures,
            }
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif _form == "json" and kind is None:
            self._write_figures()
