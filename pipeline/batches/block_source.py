"""The blocks of a shard folder's tars, by number.

In: a shard folder and its tars as the manifest lists them. Out: blocks, checked against the manifest's hashes.
What always holds: at most eight tars are open; what is missing or damaged is named with file and offset before
anything learns from it.

Example:
    source = BlockSource("SHARDS", manifest.of_split("train"))
    block = source.read(12)
"""

import time
from collections import OrderedDict
from typing import IO

import numpy as np

from pipeline import storage
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import Block, read_block_from
from pipeline.errors import RunFailed
from pipeline.progress import say

_OPEN_TARS = 8
# A network's file system that is away for a moment is waited for; what will not change is not.
_SECONDS_BEFORE_TRYING_AGAIN = (0.5, 2.0, 8.0)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class BlockSource:
    """The blocks of a list of tars, numbered over all of them in order.

    damage: `error`, or `skip`: a block that cannot be read is said aloud, and its pairs are empty ones
    """

    def __init__(self, folder: str, shards: ShardTable, damage: str = "error") -> None:
        self._folder = folder
        self._damage = damage
        self._lost: set[int] = set()
        self._shards = shards
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()

    def read(self, number: int) -> Block:
        """Block `number`, its bytes checked against the manifest.

        Raises RunFailed naming file and offset where it is missing or damaged, unless such are skipped.
        """
        index, block = self._shards.locate_block(number)
        try:
            return self._read(index, block)
        except RunFailed as error:
            if self._damage != "skip":
                raise
            pairs = self._shards[index].block_pairs[block]
            if number not in self._lost:
                self._lost.add(number)
                say(f"warning: {error}. Its {pairs} pairs are left out (loader.damage is skip)")
            return _lost(pairs)

    def _read(self, index: int, block: int) -> Block:
        shard = self._shards[index]
        path = storage.join(self._folder, shard.name)
        for wait in (*_SECONDS_BEFORE_TRYING_AGAIN, None):
            try:
                return read_block_from(self._tar(index, path), path, shard, block)
            except OSError as error:
                reason = error.strerror or error
                if wait is None or isinstance(error, _LASTING):
                    raise RunFailed(f"cannot read {path}: {reason}; restore it from its source") from error
                # A handle that has failed once is often stale.
                if index in self._open:
                    self._open.pop(index).close()
                say(f"warning: cannot read {path}: {reason}; trying again in {wait:g} s")
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _tar(self, index: int, path: str) -> IO[bytes]:
        if index in self._open:
            self._open.move_to_end(index)
        else:
            if len(self._open) == _OPEN_TARS:
                self._open.popitem(last=False)[1].close()
            self._open[index] = storage.open_read(path)
        return self._open[index]

    def close(self) -> None:
        """Close the tars."""
        while self._open:
            self._open.popitem()[1].close()


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
