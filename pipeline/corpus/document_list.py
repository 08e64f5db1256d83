"""The documents of a shard folder: the file that lists their hashes, so that more can be added without any twice.

In: the upper halves of documents' hashes. Out: `documents.bin`, these as little-endian 64-bit numbers, ascending, and
whether a document is among them. What always holds: the file is mapped, not read, so memory is bounded; 8 bytes a
document, a hundredth of the shards or less.

Example:
    write_documents("SHARDS/documents.bin", [np.array([3, 5], np.uint64)])
    KnownDocuments("SHARDS/documents.bin").holds(np.array([4, 5], np.uint64))  # [False True]
"""

import os
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.corpus.runs import U64, hash_ranges
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import read_blocks

_KIND = np.dtype("<u8")
_AT_ONCE = 1 << 20  # hashes held in memory when two lists are merged


class KnownDocuments:
    """The documents that a file lists; none where `path` is None."""

    def __init__(self, path: str | None) -> None:
        empty = path is None or not os.path.getsize(path)
        self.hashes: U64 = np.zeros(0, _KIND) if empty or path is None else np.memmap(path, _KIND, mode="r")

    def __len__(self) -> int:
        return len(self.hashes)

    def holds(self, high: U64) -> NDArray[np.bool_]:
        """Which of these documents (upper halves of their hashes) are listed."""
        if not len(self.hashes):
            return np.zeros(len(high), np.bool_)
        places = np.searchsorted(self.hashes, high)
        return self.hashes[np.minimum(places, len(self.hashes) - 1)] == high


def write_documents(path: str, parts: Iterable[U64]) -> None:
    """List the hashes of `parts`, which ascend from part to part."""

    def fill(stream: IO[bytes]) -> None:
        for part in parts:
            stream.write(part.astype(_KIND).tobytes())

    storage.write_whole(path, fill)


def merge_documents(path: str, *lists: KnownDocuments) -> None:
    """List what several files list. Raises RunFailed where the disk refuses."""
    write_documents(path, _merged([known.hashes for known in lists]))


def _merged(lists: list[U64]) -> Iterator[U64]:
    for low, high in hash_ranges(1 + sum(map(len, lists)) // _AT_ONCE):
        bounds = np.array([low, high - 1], np.uint64)  # the last may be 2^64, which no uint64 holds
        parts = [
            hashes[np.searchsorted(hashes, bounds[0]) : np.searchsorted(hashes, bounds[1], side="right")]
            for hashes in lists
        ]
        yield np.sort(np.concatenate(parts))


def listed(folder: str, name: str) -> dict[str, Any]:
    """How a manifest names the list."""
    path = os.path.join(folder, name)
    return {"file": name, "bytes": os.path.getsize(path), "hash": storage.hash_file(path)}


def documents_of(folder: str, shards: ShardTable) -> U64:
    """The documents of a folder that lists none, by its tars: each document begins a pair. All blocks are read."""
    found = [np.zeros(0, np.uint64)]
    for shard in shards:
        blocks = [block.document_a for block in read_blocks(folder, shard)]
        found.append(np.unique(np.concatenate(blocks)) if blocks else found[0])
    return np.unique(np.concatenate(found))
