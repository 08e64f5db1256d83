"""The shard format: WebDataset tars whose samples are Arrow blocks of sentence pairs.

In: tables of pairs. Out: `train-00000.tar …`, `val-00000.tar …` with their entries for the index, and back again.
A tar holds members `<shard>-<block>.arrow`, each one Arrow IPC file of up to 1,024 pairs: a member a pair
would take 8–16 times the bytes and read 80–290 times slower (benchmarks/LOG.md).
What always holds: equal pairs give equal bytes (fixed member times, owners and order); every block has its
offset, count and hash in its tar's entry, so that a loader plans and checks without opening a tar.

Columns of a block: `tokens` list<uint16 | uint32> (segment A then B, no special tokens added), `a_length`
uint16, `random_next` bool (BERT's label 1), `document_a`, `document_b` uint64 (content hashes); of shards that know
words, `continues` list<bool> (which tokens continue the word before them).

Example:
    block = read_block("SHARDS", read_manifest("SHARDS").of_split("train")[0], 0)
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.corpus.arrow_arrays import from_arrow, to_arrow
from pipeline.errors import RunFailed
from pipeline.lineage import hash_bytes

BLOCK_PAIRS = 1024
_TAR_RECORD = 512

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = get_args(Split)
PREFIXES: dict[Split, str] = {"train": "train", "validation": "val"}
"""How the names of a split's tars begin."""

LONGEST_SEQUENCE = 32_767
"""In tokens: the positions inside a sequence travel to the trainer as int16."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Up to 1,024 pairs, as flat columns.

    tokens: uint16 or uint32, all pairs' segments A and B laid end to end
    offsets: int64 (pairs + 1), where each pair's tokens start
    a_lengths: uint16, tokens of segment A
    random_next: bool, True where B comes from another document
    document_a, document_b: uint64, hashes of the documents that A and B come from
    continues: bool, tokens that continue the word before them, a segment's first never; None where the vocabulary's
        `##` pieces say it
    """

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    a_lengths: NDArray[np.uint16]
    random_next: NDArray[np.bool_]
    document_a: NDArray[np.uint64]
    document_b: NDArray[np.uint64]
    continues: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.a_lengths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each pair, special tokens not counted."""
        return np.diff(self.offsets)

    def take(self, rows: slice) -> "Block":
        """The pairs of `rows` (a slice without a step), copying nothing."""
        start, stop, _ = rows.indices(len(self))
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Block(
            tokens=self.tokens[first:last],
            offsets=self.offsets[start : stop + 1] - first,
            a_lengths=self.a_lengths[start:stop],
            random_next=self.random_next[start:stop],
            document_a=self.document_a[start:stop],
            document_b=self.document_b[start:stop],
            continues=None if self.continues is None else self.continues[first:last],
        )


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One tar as the index knows it; the `block_*` tuples have one entry a block.

    block_offsets: byte at which the block's tar member begins
    block_hashes: xxh3-128 of the block's bytes
    """

    name: str
    split: Split
    bytes: int
    hash: str
    pairs: int
    tokens: int
    random_next: int
    block_offsets: tuple[int, ...]
    block_pairs: tuple[int, ...]
    block_hashes: tuple[str, ...]

    def extent(self, index: int) -> tuple[int, int]:
        """The bytes [first, last) of the tar in which block `index` lies, its header included."""
        ends = (*self.block_offsets[1:], self.bytes)
        return self.block_offsets[index], ends[index]

    def member(self, index: int) -> str:
        """The name of block `index` inside the tar."""
        return f"{self.name.removesuffix('.tar')}-{index:05d}.arrow"


def write_shard(folder: str, name: str, split: Split, pairs: Block) -> ShardInfo:
    """Cut `pairs` into blocks and write them as the tar `folder/name`, whole or not at all.

    Returns the tar's entry for the index. Raises RunFailed where the disk refuses.
    """
    stem = name.removesuffix(".tar")
    offsets: list[int] = []
    counts: list[int] = []
    hashes: list[str] = []
    # A shard is a bounded part of the corpus, and its own hash is wanted: build it in memory, write once.
    buffer, end = io.BytesIO(), 0
    # The bytes of webdataset's TarWriter, which is this and the import of torch: 2 s and 300 MB a worker.
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for index, start in enumerate(range(0, len(pairs), BLOCK_PAIRS)):
            block = pairs.take(slice(start, start + BLOCK_PAIRS))
            data = _encode_block(block)
            offsets.append(end)
            # tarfile buffers what it writes, so the position is reckoned: a header, then whole records.
            end += _TAR_RECORD * (1 + -(-len(data) // _TAR_RECORD))
            counts.append(len(block))
            hashes.append(hash_bytes(data))
            member = tarfile.TarInfo(f"{stem}-{index:05d}.arrow")
            # A frozen clock and no owner: equal content, equal bytes.
            member.size, member.mode, member.mtime = len(data), 0o444, 0
            tar.addfile(member, io.BytesIO(data))
    data = buffer.getvalue()
    storage.write_whole(storage.join(folder, name), lambda stream: _write(stream, data))
    return ShardInfo(
        name=name,
        split=split,
        bytes=len(data),
        hash=hash_bytes(data),
        pairs=len(pairs),
        tokens=len(pairs.tokens),
        random_next=int(pairs.random_next.sum()),
        block_offsets=tuple(offsets),
        block_pairs=tuple(counts),
        block_hashes=tuple(hashes),
    )


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)


def read_block(folder: str, shard: ShardInfo, index: int) -> Block:
    """Block `index` of a tar, checked against the manifest's hash.

    Raises RunFailed naming file and offset where the tar is missing, cut short or altered.
    """
    path = storage.join(folder, shard.name)
    try:
        with storage.open_read(path) as stream:
            return read_block_from(stream, path, shard, index)
    except OSError as error:
        raise RunFailed(
            f"cannot read {path}: {error.strerror or error}; restore it from its source"
        ) from error


def read_block_from(stream: IO[bytes], path: str, shard: ShardInfo, index: int) -> Block:
    """Block `index` from an open tar; for readers that take several blocks of one tar."""
    from webdataset.tariterators import tar_file_iterator

    first, last = shard.extent(index)
    where = f"{path} at byte {first} (block {index})"
    stream.seek(first)
    # In one read: a header and its data apart would be two journeys over a network.
    data = stream.read(last - first)
    try:
        member: dict[str, Any] | None = next(tar_file_iterator(io.BytesIO(data)), None)
    except Exception as error:  # tarfile raises a dozen kinds; each means the same to a user
        raise RunFailed(f"{where} is damaged: {error}; restore the file or shard again") from error
    if member is None or member["fname"] != shard.member(index):
        found = "nothing" if member is None else member["fname"]
        raise RunFailed(
            f"{where} holds {found}, expected {shard.member(index)}; restore the file or shard again"
        )
    if hash_bytes(member["data"]) != shard.block_hashes[index]:
        raise RunFailed(f"{where} does not have the hash its manifest names; restore the file or shard again")
    return _decode_block(member["data"])


def read_blocks(folder: str, shard: ShardInfo) -> Iterator[Block]:
    """All blocks of a tar, in order; each checked as by `read_block`."""
    path = storage.join(folder, shard.name)
    try:
        with storage.open_read(path) as stream:
            for index in range(len(shard.block_offsets)):
                yield read_block_from(stream, path, shard, index)
    except OSError as error:
        raise RunFailed(
            f"cannot read {path}: {error.strerror or error}; restore it from its source"
        ) from error


def _encode_block(block: Block) -> bytes:
    offsets = to_arrow(block.offsets.astype(np.int32))
    columns = {
        "tokens": pa.ListArray.from_arrays(offsets, to_arrow(block.tokens)),
        "a_length": to_arrow(block.a_lengths),
        "random_next": to_arrow(block.random_next),
        "document_a": to_arrow(block.document_a),
        "document_b": to_arrow(block.document_b),
    }
    if block.continues is not None:
        columns["continues"] = pa.ListArray.from_arrays(offsets, to_arrow(block.continues))
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _decode_block(data: bytes) -> Block:
    batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
    tokens = batch.column("tokens")
    return Block(
        tokens=from_arrow(tokens.values),
        offsets=from_arrow(tokens.offsets).astype(np.int64),
        a_lengths=from_arrow(batch.column("a_length")),
        random_next=from_arrow(batch.column("random_next")),
        document_a=from_arrow(batch.column("document_a")),
        document_b=from_arrow(batch.column("document_b")),
        continues=from_arrow(batch.column("continues").values) if "continues" in batch.schema.names else None,
    )
