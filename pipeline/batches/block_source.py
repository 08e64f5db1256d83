"""The blocks of shard folders' tars, by number, read ahead of their need.

In: shard folders with their tars as the manifests list them. Out: blocks, checked against the manifests' hashes.
What always holds: a block is one read of one open tar; a read that fails is tried again, one that doesn't answer is
asked again, both aloud; what stays missing or damaged is named with file and offset before anything learns from it,
at the moment it is needed and not before.

Example:
    source = BlockSource([("SHARDS", manifest.of_split("train"))])
    source.request([12])
    block = source.read(12)
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import numpy as np

from pipeline import storage
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import Block, ShardInfo, read_block_from
from pipeline.errors import RunFailed
from pipeline.progress import say

# Reads that wait at once for a disk or a network: four of 256 KB hide 10 ms of latency at 100,000 pairs a second.
_THREADS = 4
# A network's file system that is away for a moment is waited for; what will not change is not.
_SECONDS_BEFORE_TRYING_AGAIN = (0.5, 2.0, 8.0)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# How long a read may take before it is asked anew, and how often it is asked.
_SECONDS_TO_ANSWER = 60.0
_TIMES_TO_ASK = 5


class BlockSource:
    """The blocks of lists of tars, numbered over all of them in order.

    folders: shard folders, each with its tars
    damage: `error`, or `skip`: a block that cannot be read is said aloud, and its pairs are empty ones
    """

    def __init__(self, folders: Sequence[tuple[str, ShardTable]], damage: str = "error") -> None:
        self._damage = damage
        self._lost: set[int] = set()
        self._folders = folders
        self._ends = np.cumsum([shards.blocks for _, shards in folders])
        self._pending: dict[int, Future[Block]] = {}
        self._readers: _Readers | None = None

    def request(self, numbers: Iterable[int]) -> None:
        """Begin to read these blocks; `read` hands them over."""
        if self._readers is None:
            self._readers = _Readers(self._attempt)
        for number in numbers:
            if number not in self._pending:
                self._pending[number] = self._readers.submit(number)

    def read(self, number: int) -> Block:
        """Block `number`, its bytes checked against the manifest.

        Raises RunFailed naming file and offset where it is missing or damaged, unless such are skipped.
        """
        try:
            return self._answer(number)
        except RunFailed as error:
            if self._damage != "skip":
                raise
            _, shard, block = self._locate(number)
            pairs = shard.block_pairs[block]
            if number not in self._lost:
                self._lost.add(number)
                say(f"warning: {error}. Its {pairs} pairs are left out (loader.damage is skip)")
            return _lost(pairs)

    def close(self) -> None:
        """End the threads that read; those that wait for an answer end when it comes."""
        if self._readers is not None:
            self._readers.close()
            self._readers = None
        self._pending.clear()

    def _answer(self, number: int) -> Block:
        path, shard, block = self._locate(number)
        where = f"{path} at byte {shard.block_offsets[block]}"
        for left in reversed(range(_TIMES_TO_ASK)):
            self.request([number])
            try:
                return self._pending[number].result(timeout=_SECONDS_TO_ANSWER)
            except TimeoutError:
                if left:
                    say(
                        f"warning: reading {where} has not answered for {_SECONDS_TO_ANSWER:g} s; asking again"
                    )
                # Its thread is stuck in the system; new ones take over what waited behind it.
                self._ask_others([other for other, future in self._pending.items() if not future.done()])
            finally:
                self._pending.pop(number, None)
        raise RunFailed(
            f"cannot read {where}: no answer in {_TIMES_TO_ASK} times {_SECONDS_TO_ANSWER:g} s; "
            "look at its disk or network, then run the same command again"
        )

    def _ask_others(self, numbers: Sequence[int]) -> None:
        """Give up the threads at work, and ask new ones for these blocks."""
        if self._readers is not None:
            self._readers.close()
        self._readers = None
        for number in numbers:
            del self._pending[number]
        self.request(numbers)

    def _locate(self, number: int) -> tuple[str, ShardInfo, int]:
        """The path of a block's tar, what the manifest says of it, and the block's number in it."""
        which = int(np.searchsorted(self._ends, number, side="right"))
        folder, shards = self._folders[which]
        row, block = shards.locate_block(number - (int(self._ends[which - 1]) if which else 0))
        shard = shards[row]
        return storage.join(folder, shard.name), shard, block

    def _attempt(self, number: int) -> Block:
        path, shard, block = self._locate(number)
        for wait in (*_SECONDS_BEFORE_TRYING_AGAIN, None):
            try:
                with storage.open_read(path) as tar:
                    return read_block_from(tar, path, shard, block)
            except OSError as error:
                reason = error.strerror or error
                if wait is None or isinstance(error, _LASTING):
                    raise RunFailed(f"cannot read {path}: {reason}; restore it from its source") from error
                say(f"warning: cannot read {path}: {reason}; trying again in {wait:g} s")
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


class _Readers:
    """Threads that read; daemons, so that one stuck in a dead disk keeps no process from ending."""

    def __init__(self, read: Callable[[int], Block]) -> None:
        self._read = read
        self._count = _THREADS
        self._closed = False
        self._asked: queue.SimpleQueue[tuple[int, Future[Block]] | None] = queue.SimpleQueue()
        for _ in range(self._count):
            threading.Thread(target=self._serve, name="bertpipe-blocks", daemon=True).start()

    def submit(self, number: int) -> "Future[Block]":
        future: Future[Block] = Future()
        self._asked.put((number, future))
        return future

    def close(self) -> None:
        self._closed = True
        for _ in range(self._count):
            self._asked.put(None)

    def _serve(self) -> None:
        while (asked := self._asked.get()) is not None and not self._closed:
            number, future = asked
            try:
                future.set_result(self._read(number))
            except BaseException as error:  # raised where the block is needed
                future.set_exception(error)


def _lost(pairs: int) -> Block:
    """What stands for a block that could not be read: as many pairs, of no tokens."""
    return Block(
        tokens=np.zeros(0, np.uint16),
        offsets=np.zeros(pairs + 1, np.int64),
        a_lengths=np.zeros(pairs, np.uint16),
        random_next=np.zeros(pairs, np.bool_),
        document_a=np.zeros(pairs, np.uint64),
        document_b=np.zeros(pairs, np.uint64),
    )
