"""The tars of a shard folder as a sequence, however many: entries are made when asked for.

In: an index, mapped or in memory. Out: `ShardTable`: `ShardInfo` by row, and numpy columns for those who plan.
What always holds: nothing is copied out of the index but what is asked for; a slice is a table of the same
index; sent to another process, a table is the index's place and some rows.

Example:
    table = ShardTable(SharedBytes.of_file("SHARDS/index.arrow")).of_split("train")
    table.block_pairs.sum(), table[3].name
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.corpus.index import U8, Columns, decode, encode
from pipeline.corpus.shards import SPLITS, ShardInfo, Split
from pipeline.shared_bytes import SharedBytes

Count = Literal["bytes", "pairs", "tokens", "random_next"]

_ROWS_AT_ONCE = 1 << 13


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
