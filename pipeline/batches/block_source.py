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

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from pipeline import storage
from pipeline.batches.block_readers import Asked, BlockReaders
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
_REMEDY = "look at its disk or network, then run the same command again"
# Reads of a folder that may wait at once: two blocks' worth that never answer. More would only pile up threads, and
# those of other folders would wait behind them.
_MOST_WAITING = 2 * _THREADS * _TIMES_TO_ASK


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
        self._pending: dict[int, Asked] = {}
        self._readers: BlockReaders | None = None
        self._waiting: Counter[str] = Counter()
        self._counting = threading.Lock()

    def request(self, numbers: Iterable[int]) -> None:
        """Begin to read these blocks; `read` hands them over."""
        if self._readers is None:
            self._readers = BlockReaders(self._attempt, _THREADS)
        for number in numbers:
            if number not in self._pending:
                self._pending[number] = self._readers.ask(number)

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
        self.request([number])
        readers, asked = self._readers, self._pending[number]
        assert readers is not None, "whoever requests has readers"
        readers.hasten(asked)
        try:
            for left in reversed(range(_TIMES_TO_ASK)):
                try:
                    return asked.answer.result(timeout=_SECONDS_TO_ANSWER)
                except TimeoutError:
                    if left:
                        say(
                            f"warning: reading {where} has not answered for {_SECONDS_TO_ANSWER:g} s; asking again"
                        )
                        readers.ask_again(asked, older_than=_SECONDS_TO_ANSWER / 2)
        finally:
            readers.drop(asked)
            del self._pending[number]
        raise RunFailed(
            f"cannot read {where}: no answer in {_TIMES_TO_ASK} times {_SECONDS_TO_ANSWER:g} s; {_REMEDY}"
        )

    def _locate(self, number: int) -> tuple[str, ShardInfo, int]:
        """The path of a block's tar, what the manifest says of it, and the block's number in it."""
        which = int(np.searchsorted(self._ends, number, side="right"))
        folder, shards = self._folders[which]
        row, block = shards.locate_block(number - (int(self._ends[which - 1]) if which else 0))
        shard = shards[row]
        return storage.join(folder, shard.name), shard, block

    def _attempt(self, number: int) -> Block:
        path, shard, block = self._locate(number)
        with self._counted(path):
            return _patient_read(path, shard, block)

    @contextmanager
    def _counted(self, path: str) -> Iterator[None]:
        """Count the read of a tar among its folder's; RunFailed where too many wait already."""
        folder = os.path.dirname(path)
        with self._counting:
            if self._waiting[folder] >= _MOST_WAITING:
                raise RunFailed(
                    f"cannot read {path}: {_MOST_WAITING} reads of its folder have had no answer; {_REMEDY}"
                )
            self._waiting[folder] += 1
        try:
            yield
        finally:
            with self._counting:
                self._waiting[folder] -= 1


def _patient_read(path: str, shard: ShardInfo, block: int) -> Block:
    """Read a block; where that fails in a way that may pass, again, aloud."""
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
