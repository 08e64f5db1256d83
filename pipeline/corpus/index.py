"""The index of a shard folder: all its tars and blocks as a table of columns, a row a tar.

In: entries of tars, or the file `index.arrow`. Out: `ShardTable`, a sequence of `ShardInfo` that are built only
when asked for, and flat numpy columns for those who plan.
What always holds: equal tables give equal bytes; opening the file reads and copies nothing (a million tars are
310 MB of it, which all processes of a node share as page cache); a table is sent to another process as the
file's place and its rows; the tars of a split are neighbours.

The file is one Arrow IPC file, uncompressed, of one record batch: `name`, `split` (dictionary), `bytes`, `hash`,
`pairs`, `tokens`, `random_next`, and, a list a tar with an entry a block, `block_offsets`, `block_pairs`,
`block_hashes`. Hashes are 16 bytes.

Example:
    table = ShardTable(SharedBytes.of_file("SHARDS/index.arrow")).of_split("train")
    table.block_pairs.sum(), table[3].name
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.corpus.shards import SPLITS, ShardInfo, Split
from pipeline.shared_bytes import SharedBytes

HASH_BYTES = 16
_HASH = pa.binary(HASH_BYTES)
_ROWS_AT_ONCE = 1 << 13

Count = Literal["bytes", "pairs", "tokens", "random_next"]
_COUNTS: tuple[Count, ...] = ("bytes", "pairs", "tokens", "random_next")

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


class ShardTable(Sequence[ShardInfo]):
    """Some neighbouring rows of an index, as a sequence of `ShardInfo`; a slice of it is another one."""

    def __init__(self, source: SharedBytes, rows: range | None = None) -> None:
        self._source = source
        self._columns: Columns | None = None
        self._rows = range(len(self._index.splits)) if rows is None else rows

    @classmethod
    def of(cls, shards: Sequence[ShardInfo]) -> "ShardTable":
        """A table in memory. Raises ValueError where an entry is no sound one."""
        return cls.of_columns(Columns.of(shards))

    @classmethod
    def of_columns(cls, columns: Columns) -> "ShardTable":
        """A table in memory."""
        return cls(SharedBytes(encode(columns)))

    @property
    def _index(self) -> Columns:
        # Late: a loader worker opens what it was sent where its errors have somebody to read them.
        if self._columns is None:
            self._columns = decode(self._source.buffer)
        return self._columns

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_columns": None}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int) -> ShardInfo: ...
    @overload
    def __getitem__(self, key: slice) -> "ShardTable": ...
    def __getitem__(self, key: int | slice) -> "ShardInfo | ShardTable":
        if isinstance(key, slice):
            rows = self._rows[key]
            if rows.step != 1:
                raise ValueError("the rows of a table are neighbours")
            return self._part(rows)
        return self._entry(self._rows[key])

    def _part(self, rows: range) -> "ShardTable":
        part = ShardTable(self._source, rows)
        part._columns = self._columns
        return part

    def _entry(self, row: int) -> ShardInfo:
        index = self._index
        first, last = int(index.first_blocks[row]), int(index.first_blocks[row + 1])
        return ShardInfo(
            name=index.names[index.name_starts[row] : index.name_starts[row + 1]].tobytes().decode(),
            split=SPLITS[index.splits[row]],
            bytes=int(index.bytes[row]),
            hash=index.hashes[row].tobytes().hex(),
            pairs=int(index.pairs[row]),
            tokens=int(index.tokens[row]),
            random_next=int(index.random_next[row]),
            block_offsets=tuple(index.block_offsets[first:last].tolist()),
            block_pairs=tuple(index.block_pairs[first:last].tolist()),
            block_hashes=tuple(each.tobytes().hex() for each in index.block_hashes[first:last]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ShardTable):
            return NotImplemented
        return self.encoded().equals(other.encoded())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ShardTable({len(self)} tars of {self._source.name})"

    def encoded(self) -> pa.Buffer:
        """The bytes of an index file that holds these rows."""
        if self._rows == range(len(self._index.splits)):
            return self._source.buffer
        return encode(self._index.rows(self._rows))

    def of_split(self, split: Split) -> "ShardTable":
        """The tars of one side, in order."""
        found = np.flatnonzero(self._index.splits[self._span] == SPLITS.index(split))
        if not len(found):
            return self[:0]
        return self[int(found[0]) : int(found[-1]) + 1]

    @property
    def _span(self) -> slice:
        return slice(self._rows.start, self._rows.stop)

    @property
    def _blocks(self) -> slice:
        firsts = self._index.first_blocks
        return slice(int(firsts[self._rows.start]), int(firsts[self._rows.stop]))

    def column(self, name: Count) -> NDArray[np.int64]:
        """One number of each tar (a view)."""
        column: NDArray[np.int64] = getattr(self._index, name)
        return column[self._span]

    def names(self) -> Iterator[str]:
        """The tars' names, in order, without the rest of their entries."""
        index = self._index
        starts = index.name_starts[self._rows.start : self._rows.stop + 1].tolist()
        for start, end in pairwise(starts):
            yield index.names[start:end].tobytes().decode()

    def total(self, name: Count) -> int:
        """One number, summed over the tars."""
        return int(self.column(name).sum())

    @property
    def blocks(self) -> int:
        """How many blocks the tars hold."""
        return self._blocks.stop - self._blocks.start

    @property
    def block_pairs(self) -> NDArray[np.uint16]:
        """The pairs of every block, in order (a view)."""
        return self._index.block_pairs[self._blocks]

    def locate_block(self, number: int) -> tuple[int, int]:
        """Where block `number` of the table stands: its tar's row, and its place among that tar's blocks."""
        firsts = self._index.first_blocks
        wanted = firsts.dtype.type(number + self._blocks.start)  # another type would copy them all
        # The end of a row without blocks is the start of the next one: the last of equals holds the block.
        row = int(np.searchsorted(firsts, wanted, side="right")) - 1
        return row - self._rows.start, int(wanted - firsts[row])

    def names_and_hashes(self) -> Iterator[bytes]:
        """The UTF-8 of the JSON `[["NAME","HASH"],…]` (names as bertpipe gives them), in pieces."""
        index, rows = self._index, self._rows
        lengths = np.diff(index.name_starts[rows.start : rows.stop + 1])
        # Neighbours' names are mostly of one length, and then their rows are a matrix. As Python's strings, a
        # million of them would take seconds at every start.
        cuts = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(rows)]
        comma = b"["
        for first, last in pairwise(cuts):
            for start in range(rows.start + first, rows.start + last, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, rows.start + last)
                yield comma
                yield _json_rows(index, start, stop).tobytes()[:-1]
                comma = b","
        yield b"]" if len(rows) else b"[]"


_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint8).reshape(256, 2)


def _json_rows(index: Columns, start: int, stop: int) -> U8:
    """`["NAME","HASH"],` for each of some rows whose names are equally long."""
    names = index.names[index.name_starts[start] : index.name_starts[stop]]
    parts = (b'["', names, b'","', _HEX[index.hashes[start:stop]], b'"],')
    count = stop - start
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (count, len(part)))
        if isinstance(part, bytes)
        else part.reshape(count, -1)
        for part in parts
    ]
    return np.concatenate(columns, axis=1)
