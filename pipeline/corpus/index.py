"""The index of a shard folder: its tars and blocks as flat columns, and the file that they stand in.

In: entries of tars, or the bytes of `index.arrow`. Out: `Columns`, and back again.
What always holds: equal columns give equal bytes; decoding reads and copies nothing, so a file that is mapped stays
where it is (310 MB for a million tars); the tars of a split are neighbours.

The file is one Arrow IPC file, uncompressed, of one record batch: `name`, `split` (dictionary), `bytes`, `hash`,
`pairs`, `tokens`, `random_next`, and, a list a tar with an entry a block, `block_offsets`, `block_pairs`,
`block_hashes`. Hashes are 16 bytes.

Example:
    decode(encode(Columns.of([write_shard("SHARDS", "train-00000.tar", "train", pairs)]))).block_pairs
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.corpus.shards import SPLITS, ShardInfo

HASH_BYTES = 16
_HASH = pa.binary(HASH_BYTES)

_COUNTS = ("bytes", "pairs", "tokens", "random_next")

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """A table of T tars with B blocks, laid out flat.

    name_starts: int32 (T + 1), where each name begins in `names`, the UTF-8 of all
    splits: int8 (T), positions in `SPLITS`, equal ones side by side
    hashes: uint8 (T, 16); bytes, pairs, tokens, random_next: int64 (T)
    first_blocks: int32 (T + 1), the number of each tar's first block, from 0
    block_offsets: uint64 (B); block_pairs: uint16 (B); block_hashes: uint8 (B, 16)
    """

    name_starts: NDArray[np.int32]
    names: U8
    splits: NDArray[np.int8]
    hashes: U8
    bytes: NDArray[np.int64]
    pairs: NDArray[np.int64]
    tokens: NDArray[np.int64]
    random_next: NDArray[np.int64]
    first_blocks: NDArray[np.int32]
    block_offsets: U64
    block_pairs: NDArray[np.uint16]
    block_hashes: U8

    def __post_init__(self) -> None:
        if np.count_nonzero(np.diff(self.splits)) >= len(SPLITS):
            raise ValueError("the tars of its splits are mixed")
        if int(self.first_blocks[-1]) != len(self.block_pairs):
            raise ValueError(
                f"its tars have {self.first_blocks[-1]} blocks, its lists {len(self.block_pairs)}"
            )

    @classmethod
    def of(cls, shards: Sequence[ShardInfo]) -> "Columns":
        """The columns of `shards`. Raises ValueError where an entry is no sound one."""
        names = [shard.name.encode() for shard in shards]
        counts = {name: np.array([getattr(shard, name) for shard in shards], np.int64) for name in _COUNTS}
        return cls(
            name_starts=_starts([len(name) for name in names]),
            names=np.frombuffer(b"".join(names), np.uint8),
            splits=np.array([SPLITS.index(shard.split) for shard in shards], np.int8),
            hashes=_hashes(shard.hash for shard in shards),
            bytes=counts["bytes"],
            pairs=counts["pairs"],
            tokens=counts["tokens"],
            random_next=counts["random_next"],
            first_blocks=_starts([len(shard.block_pairs) for shard in shards]),
            block_offsets=np.array([offset for shard in shards for offset in shard.block_offsets], np.uint64),
            block_pairs=np.array([count for shard in shards for count in shard.block_pairs], np.uint16),
            block_hashes=_hashes(each for shard in shards for each in shard.block_hashes),
        )

    def rows(self, rows: range) -> "Columns":
        """The columns of some neighbouring tars; only the starts are copied."""
        these, ends = slice(rows.start, rows.stop), slice(rows.start, rows.stop + 1)
        name_starts, first_blocks = self.name_starts[ends], self.first_blocks[ends]
        characters, blocks = slice(name_starts[0], name_starts[-1]), slice(first_blocks[0], first_blocks[-1])
        return Columns(
            name_starts=name_starts - name_starts[0],
            names=self.names[characters],
            splits=self.splits[these],
            hashes=self.hashes[these],
            bytes=self.bytes[these],
            pairs=self.pairs[these],
            tokens=self.tokens[these],
            random_next=self.random_next[these],
            first_blocks=first_blocks - first_blocks[0],
            block_offsets=self.block_offsets[blocks],
            block_pairs=self.block_pairs[blocks],
            block_hashes=self.block_hashes[blocks],
        )


def _starts(lengths: Sequence[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)


def _hashes(hexadecimal: Iterable[str]) -> U8:
    joined = [bytes.fromhex(each) for each in hexadecimal]
    if wrong := [each.hex() for each in joined if len(each) != HASH_BYTES]:
        raise ValueError(f"{wrong[0]!r} is no hash of {HASH_BYTES} bytes")
    return np.frombuffer(b"".join(joined), np.uint8).reshape(-1, HASH_BYTES)


def encode(columns: Columns) -> pa.Buffer:
    """The bytes of an index file: equal for equal columns."""
    tars = len(columns.splits)
    first_blocks = pa.array(columns.first_blocks)
    block_hashes = _fixed(_HASH, len(columns.block_pairs), columns.block_hashes)
    arrays = {
        "name": pa.StringArray.from_buffers(tars, _buffer(columns.name_starts), _buffer(columns.names)),
        "split": pa.DictionaryArray.from_arrays(pa.array(columns.splits), pa.array(SPLITS)),
        "bytes": pa.array(columns.bytes),
        "hash": _fixed(_HASH, tars, columns.hashes),
        "pairs": pa.array(columns.pairs),
        "tokens": pa.array(columns.tokens),
        "random_next": pa.array(columns.random_next),
        "block_offsets": pa.ListArray.from_arrays(first_blocks, pa.array(columns.block_offsets)),
        "block_pairs": pa.ListArray.from_arrays(first_blocks, pa.array(columns.block_pairs)),
        "block_hashes": pa.ListArray.from_arrays(first_blocks, block_hashes),
    }
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(array))


def _fixed(kind: Any, length: int, array: NDArray[Any]) -> Any:
    return pa.Array.from_buffers(kind, length, [None, _buffer(array)])


def decode(buffer: pa.Buffer) -> Columns:
    """An index file's columns, as views of its bytes.

    Raises KeyError or ValueError where the bytes are no index.
    """
    batch = pa.ipc.open_file(pa.BufferReader(buffer)).get_batch(0)
    tars = batch.num_rows
    name, split, lists = batch.column("name"), batch.column("split"), batch.column("block_pairs")
    offsets, hashes = batch.column("block_offsets").values, batch.column("block_hashes").values
    if split.dictionary.to_pylist() != list(SPLITS) or hashes.type != _HASH:
        raise ValueError("its columns are others")
    counts = {count: _view(batch.column(count), np.int64, tars) for count in _COUNTS}
    blocks = len(lists.values)
    return Columns(
        name_starts=_numbers(name.buffers()[1], np.int32, tars + 1),
        names=_numbers(name.buffers()[2], np.uint8, None),
        splits=_view(split.indices, np.int8, tars),
        hashes=_view(batch.column("hash"), np.uint8, tars * HASH_BYTES).reshape(-1, HASH_BYTES),
        bytes=counts["bytes"],
        pairs=counts["pairs"],
        tokens=counts["tokens"],
        random_next=counts["random_next"],
        first_blocks=_numbers(lists.buffers()[1], np.int32, tars + 1),
        block_offsets=_view(offsets, np.uint64, blocks),
        block_pairs=_view(lists.values, np.uint16, blocks),
        block_hashes=_view(hashes, np.uint8, blocks * HASH_BYTES).reshape(-1, HASH_BYTES),
    )


def _view(array: Any, kind: Any, count: int) -> NDArray[Any]:
    """An Arrow array's values; Arrow's own `to_numpy` would load pandas into every loader worker."""
    return _numbers(array.buffers()[-1], kind, count)


def _numbers(buffer: pa.Buffer | None, kind: Any, count: int | None) -> NDArray[Any]:
    if buffer is None or not buffer.size:
        return np.zeros(count or 0, kind)
    return np.frombuffer(buffer, kind, -1 if count is None else count)
