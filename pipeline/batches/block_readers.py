"""Threads that read blocks in the order in which they are asked for.

In: how a block is read. Out: what was asked for, each with its answer to be.
What always holds: the first answer counts, whichever thread gives it; a thread that is given up is replaced, and ends
when its own answer comes. They are daemons, so that one stuck in a dead disk keeps no process from ending.

Example:
    readers = BlockReaders(read, threads=4)
    asked = readers.ask(12)
    readers.ask_again(asked, older_than=30.0)       # it has not answered
    block = asked.answer.result()
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from pipeline.corpus.shards import Block


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A block that was asked for, and its answer to be."""

    number: int
    answer: "Future[Block]" = field(default_factory=Future)


class BlockReaders:
    """Threads that read what is asked for, first come, first served.

    read: what reads block `number`; what it raises is raised where the block is needed
    """

    def __init__(self, read: Callable[[int], Block], threads: int) -> None:
        self._read = read
        self._closed = False
        self._changed = threading.Condition()
        self._queue: deque[Asked] = deque()
        # What each thread reads, and since when; one that is given up is not among them.
        self._at_work: dict[threading.Thread, tuple[Asked, float]] = {}
        self._start(threads)

    def ask(self, number: int) -> Asked:
        """Have a block read after all others."""
        asked = Asked(number=number)
        with self._changed:
            self._queue.append(asked)
            self._changed.notify()
        return asked

    def hasten(self, asked: Asked) -> None:
        """Have what is needed now read before all others, where it still waits."""
        with self._changed:
            if asked in self._queue:
                self._queue.remove(asked)
                self._queue.appendleft(asked)

    def ask_again(self, asked: Asked, *, older_than: float) -> None:
        """Have what did not answer read once more, before all others.

        older_than: seconds after which a read counts as stuck; such are given up with the one in question, and new
            threads read their blocks before those that wait
        """
        with self._changed:
            latest = time.monotonic() - older_than
            stuck = {
                thread: its
                for thread, (its, since) in self._at_work.items()
                if its is asked or since <= latest
            }
            again = [asked, *(its for its in stuck.values() if its is not asked)]
            self._queue = deque([*again, *(its for its in self._queue if its is not asked)])
            for thread in stuck:
                del self._at_work[thread]
            self._start(len(stuck))
            self._changed.notify_all()

    def drop(self, asked: Asked) -> None:
        """Read this no more, where it has not been answered."""
        with self._changed:
            asked.answer.cancel()

    def close(self) -> None:
        """End the threads; those that wait for an answer end when it comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start(self, threads: int) -> None:
        for _ in range(threads):
            threading.Thread(target=self._serve, name="bertpipe-blocks", daemon=True).start()

    def _serve(self) -> None:
        this = threading.current_thread()
        while (asked := self._next(this)) is not None:
            block, failure = None, None
            try:
                block = self._read(asked.number)
            except BaseException as error:  # raised where the block is needed
                failure = error
            with self._changed:
                if not asked.answer.done():
                    if block is not None:
                        asked.answer.set_result(block)
                    else:
                        asked.answer.set_exception(failure)
                if self._at_work.pop(this, None) is None:
                    return  # given up, and another thread stands in its place

    def _next(self, this: threading.Thread) -> Asked | None:
        """What `this` thread is to read; None where it is to end."""
        with self._changed:
            while not self._closed:
                # What has been answered meanwhile, or is needed no more, is passed over.
                while self._queue:
                    asked = self._queue.popleft()
                    if not asked.answer.done():
                        self._at_work[this] = asked, time.monotonic()
                        return asked
                self._changed.wait()
        return None
