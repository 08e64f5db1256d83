"""A rank that finishes nothing any more says where it stands and ends.

In: signs of life, one a micro-batch or more. Out: where none comes for `seconds`, the stack of every thread in
`RUN/stacks/rank-00000.txt`, one line on standard error, and exit code 1. What always holds: a rank that hangs in a
collective, a disk or a lock ends all the same, and the others (each has a watchdog) with it; time in which the whole
process was suspended doesn't count.

Example:
    with Watchdog(run, world, seconds=1800) as watchdog:
        for batch in watchdog.watched(batches): ...
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pipeline.errors import RunFailed
from pipeline.progress import complain
from pipeline.training.world import World

T = TypeVar("T")

STACKS = "stacks"
_LOOKS = 20


class Watchdog:
    """Watches this process while it is entered.

    seconds: without a sign of life; 0 watches nothing
    """

    def __init__(self, run: Path, world: World, *, seconds: float) -> None:
        self._path = run / STACKS / f"rank-{world.rank:05d}.txt"
        self._rank, self._seconds = world.rank, seconds
        self._silent = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def feed(self) -> None:
        """A sign of life."""
        self._silent = 0.0

    def watched(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, each a sign of life."""
        for item in items:
            self.feed()
            yield item

    def _watch(self) -> None:
        pause = self._seconds / _LOOKS
        while not self._ended.is_set():
            before = time.monotonic()
            if self._ended.wait(pause):
                return
            # A process that was suspended wakes to a clock that has gone on: no pause counts for more than two.
            self._silent += min(time.monotonic() - before, 2 * pause)
            if self._silent >= self._seconds:
                self._end()

    def _end(self) -> None:
        where = f"its stacks are in {self._path}"
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"== {time.strftime('%Y-%m-%dT%H:%M:%S%z')}, process {os.getpid()}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            where = f"its stacks could not be written ({error.strerror})"
        complain(
            f"bertpipe: rank {self._rank} has finished nothing for {self._seconds:g} s; {where}; "
            "run the same command again, it resumes from the last checkpoint"
        )
        sys.stderr.flush()
        # Whatever the main thread hangs in would also hold up an orderly end.
        os._exit(RunFailed.exit_code)

    def __enter__(self) -> Self:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
