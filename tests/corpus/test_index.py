"""The index of a shard folder: a contract in bytes, and a table that behaves as the list of its entries."""

import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import SPLITS, ShardInfo
from pipeline.errors import RunFailed
from pipeline.lineage import hash_bytes
from pipeline.shared_bytes import SharedBytes

hashes = st.binary(min_size=16, max_size=16).map(bytes.hex)
counts = st.integers(0, 2**50)


@st.composite
def entries(draw: Any) -> list[ShardInfo]:
    """Tars of both sides, of no to three blocks, under names of any script and length."""
    shards = []
    for split in SPLITS:
        for _ in range(draw(st.integers(0, 4))):
            blocks = draw(st.integers(0, 3))
            numbers = st.lists(st.integers(0, 2**40), min_size=blocks, max_size=blocks)
            shards.append(
                ShardInfo(
                    name=draw(st.text(st.characters(categories=["L", "N"]), max_size=8)) + ".tar",
                    split=split,
                    bytes=draw(counts),
                    hash=draw(hashes),
                    pairs=draw(counts),
                    tokens=draw(counts),
                    random_next=draw(counts),
                    block_offsets=tuple(draw(numbers)),
                    block_pairs=tuple(each % 1024 + 1 for each in draw(numbers)),
                    block_hashes=tuple(draw(st.lists(hashes, min_size=blocks, max_size=blocks))),
                )
            )
    return shards


def entry(number: int, split: Any = "train", blocks: int = 2) -> ShardInfo:
    return ShardInfo(
        name=f"{split}-{number:05d}.tar",
        split=split,
        bytes=10240 * (number + 1),
        hash=f"{number:032x}",
        pairs=1024 * blocks,
        tokens=100_000 + number,
        random_next=512 * blocks,
        block_offsets=tuple(300_000 * block for block in range(blocks)),
        block_pairs=(1024,) * blocks,
        block_hashes=tuple(f"{number * 10 + block:032x}" for block in range(blocks)),
    )


def on_disk(table: ShardTable, path: Path) -> ShardTable:
    path.write_bytes(table.encoded())
    return ShardTable(SharedBytes.of_file(str(path)))


@given(entries())
def test_a_table_is_the_sequence_of_its_entries(
    tmp_path_factory: pytest.TempPathFactory, shards: list[ShardInfo]
) -> None:
    memory = ShardTable.of(shards)
    for table in (memory, on_disk(memory, tmp_path_factory.mktemp("index") / "index.arrow")):
        assert list(table) == shards
        assert len(table) == len(shards)
        assert [table[-1 - place] for place in range(len(shards))] == shards[::-1]
        assert list(table[1:3]) == shards[1:3]
        assert list(table[1:].names()) == [each.name for each in shards[1:]]
        assert table[1:3] == ShardTable.of(shards[1:3])
        for split in SPLITS:
            assert list(table.of_split(split)) == [each for each in shards if each.split == split]
            assert list(table[1:].of_split(split)) == [each for each in shards[1:] if each.split == split]
        with pytest.raises(IndexError):
            table[len(shards)]


@given(entries(), st.data())
def test_the_flat_columns_are_those_of_the_entries(shards: list[ShardInfo], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(shards)))
    table, these = ShardTable.of(shards)[first:], shards[first:]
    blocks = [(row, block) for row, shard in enumerate(these) for block in range(len(shard.block_pairs))]
    assert table.block_pairs.tolist() == [these[row].block_pairs[block] for row, block in blocks]
    assert table.blocks == len(blocks)
    assert [table.locate_block(number) for number in range(table.blocks)] == blocks
    for name in ("bytes", "pairs", "tokens", "random_next"):
        assert table.column(name).tolist() == [getattr(each, name) for each in these]
        assert table.total(name) == sum(getattr(each, name) for each in these)


@given(entries(), st.integers(0, 8))
def test_names_and_hashes_are_told_as_json_tells_them(shards: list[ShardInfo], first: int) -> None:
    told = b"".join(ShardTable.of(shards)[first:].names_and_hashes())
    wanted = [[each.name, each.hash] for each in shards[first:]]
    assert told == json.dumps(wanted, separators=(",", ":"), ensure_ascii=False).encode()


@given(entries())
def test_equal_tables_have_equal_bytes_however_they_came_about(shards: list[ShardInfo]) -> None:
    table = ShardTable.of(shards)
    data = table.encoded().to_pybytes()
    assert ShardTable.of(list(table)).encoded().to_pybytes() == data
    # Cut out of a larger one, of which nothing may shine through.
    others = [replace(each, name=f"other-{each.name}") for each in shards if each.split == "validation"]
    assert ShardTable.of([*shards, *others])[: len(shards)].encoded().to_pybytes() == data
    assert (ShardTable.of([*shards, *others]) == table) == (not others)


def test_the_bytes_of_a_tiny_index_are_the_contract() -> None:
    """If this fails, folders already on users' disks differ from new ones: raise the manifest's FORMAT_VERSION.

    (A new pyarrow may lay out the same table otherwise; then the manifest's versions tell the two apart.)
    """
    data = ShardTable.of([entry(0), entry(1, blocks=1), entry(0, "validation")]).encoded()
    assert hash_bytes(memoryview(data)) == "6bcb46c3433f4d2da1c11b0498d27e80"
    file = pa.ipc.open_file(pa.BufferReader(data))
    assert {field.name: str(field.type) for field in file.schema} == {
        "name": "string",
        "split": "dictionary<values=string, indices=int8, ordered=0>",
        "bytes": "int64",
        "hash": "fixed_size_binary[16]",
        "pairs": "int64",
        "tokens": "int64",
        "random_next": "int64",
        "block_offsets": "list<item: uint64>",
        "block_pairs": "list<item: uint16>",
        "block_hashes": "list<item: fixed_size_binary[16]>",
    }
    assert file.read_all().column("split").to_pylist() == ["train", "train", "validation"]
    assert file.read_all().column("block_pairs").to_pylist() == [[1024, 1024], [1024], [1024, 1024]]


def test_what_planning_takes_of_a_file_is_not_copied(tmp_path: Path) -> None:
    table = on_disk(ShardTable.of([entry(0), entry(1)]), tmp_path / "index.arrow").of_split("train")
    inside = np.frombuffer(table.encoded(), np.uint8)
    for column in (table.block_pairs, table.column("pairs"), table.column("tokens")):
        assert np.shares_memory(column, inside)


@pytest.mark.parametrize(
    "shards", [[entry(0), entry(0, "validation"), entry(1)], [replace(entry(0), hash="00")]]
)
def test_entries_that_make_no_table_are_refused(shards: list[ShardInfo]) -> None:
    with pytest.raises(ValueError, match=r"are mixed|no hash of 16 bytes"):
        ShardTable.of(shards)


def in_another_process(sent: bytes) -> list[str]:
    """The names of the tars in a pickled table, or the words of an error, as another process has them."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        # What this process has mapped or opened is not what the other one reads.
        try:
            said = "\n".join(each.name for each in pickle.loads(sent))
        except RunFailed as error:
            said = str(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said.split("\n")


@pytest.mark.parametrize("where", ["file", "uri", "elsewhere"])
def test_a_table_is_sent_to_another_process_as_a_place_and_rows(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [entry(number) for number in range(1000)]
    path = tmp_path / "index.arrow"
    path.write_bytes(ShardTable.of(shards).encoded())
    if where == "elsewhere":  # as s3:// is, to which no path leads
        monkeypatch.setattr(storage, "local_path", lambda path: None)
    source = SharedBytes.of_file(str(path) if where == "file" else f"file://{path}")
    table = ShardTable(source)[10:20]
    sent = pickle.dumps(table)
    assert len(sent) < 1000
    if where == "elsewhere":
        path.unlink()  # read once
    assert in_another_process(sent) == [each.name for each in shards[10:20]]
    assert table[0] == shards[10]


@pytest.mark.skipif(sys.platform != "linux", reason="memory without a name is Linux's")
def test_what_was_read_from_a_uri_goes_with_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.arrow"
    path.write_bytes(ShardTable.of([entry(0)]).encoded())
    monkeypatch.setattr(storage, "local_path", lambda path: None)
    before = len(os.listdir("/proc/self/fd"))
    table = ShardTable(SharedBytes.of_file(f"file://{path}"))
    sent = pickle.dumps(table)
    del table
    assert len(os.listdir("/proc/self/fd")) == before
    assert "cannot read" in in_another_process(sent)[0]


def test_a_table_in_memory_is_sent_whole() -> None:
    table = ShardTable.of([entry(0), entry(1)])
    assert pickle.loads(pickle.dumps(table[1:])) == table[1:]


def test_an_index_exchanged_under_way_is_refused_by_whom_it_was_sent_to(tmp_path: Path) -> None:
    path = tmp_path / "index.arrow"
    table = on_disk(ShardTable.of([entry(0), entry(1)]), path)
    sent = pickle.dumps(table)
    storage.write_whole(str(path), lambda stream: stream.write(ShardTable.of([entry(3)]).encoded()))
    assert "index.arrow has changed since" in in_another_process(sent)[0]
    assert table[1] == entry(1), "who has it open keeps what it opened"
    path.unlink()
    assert "cannot read" in in_another_process(sent)[0]
