"""The shard format: a contract in bytes, read back exactly, by plain webdataset too, and never when damaged."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import shards
from pipeline.corpus.shards import Block, read_block, read_blocks, write_shard
from pipeline.errors import RunFailed


def make_block(
    lengths: list[tuple[int, int]], *, token_type: Any = np.uint16, seed: int = 0, words: bool = False
) -> Block:
    """Pairs of the given lengths of A and B."""
    draw = np.random.default_rng(seed)
    total = sum(a + b for a, b in lengths)
    random_next = draw.random(len(lengths)) < 0.5
    document_a = draw.integers(0, 1 << 63, len(lengths)).astype(np.uint64)
    return Block(
        tokens=draw.integers(0, np.iinfo(token_type).max, total).astype(token_type),
        offsets=np.cumsum([0, *(a + b for a, b in lengths)]).astype(np.int64),
        a_lengths=np.array([a for a, _ in lengths], np.uint16),
        random_next=random_next,
        document_a=document_a,
        document_b=document_a + random_next.astype(np.uint64),
        continues=draw.random(total) < 0.4 if words else None,
    )


def columns(block: Block) -> list[Any]:
    names = ["tokens", "offsets", "a_lengths", "random_next", "document_a", "document_b"]
    names += ["continues"] if block.continues is not None else []
    return [(getattr(block, name).dtype, getattr(block, name).tolist()) for name in names]


@pytest.fixture
def tiny() -> Block:
    return Block(
        tokens=np.arange(10, 22, dtype=np.uint16),
        offsets=np.array([0, 5, 12]),
        a_lengths=np.array([2, 4], np.uint16),
        random_next=np.array([True, False]),
        document_a=np.array([1 << 63, 7], np.uint64),
        document_b=np.array([3, 7], np.uint64),
    )


def test_the_bytes_of_a_tiny_shard_are_the_contract(tiny: Block, tmp_path: Path) -> None:
    """If this fails, shards already on users' disks differ from new ones: raise the manifest's FORMAT_VERSION.

    (A new pyarrow may lay out the same batch otherwise; then the manifest's versions tell the two apart.)
    """
    info = write_shard(str(tmp_path), "train-00000.tar", "train", tiny)
    assert info.hash == "ce5891d269664d19566434fe3d813945"
    in_words = replace(tiny, continues=np.array([0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0], np.bool_))
    assert (
        write_shard(str(tmp_path), "words.tar", "train", in_words).hash == "b077f6b1ccd8a1283fae11c1282234b8"
    )
    assert (info.bytes, info.pairs, info.tokens, info.random_next) == (10240, 2, 12, 1)
    assert (info.block_offsets, info.block_pairs) == ((0,), (2,))
    assert info.member(0) == "train-00000-00000.arrow"


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=30),
    st.sampled_from([np.uint16, np.uint32]),
    st.integers(0, 99),
    st.booleans(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[tuple[int, int]],
    token_type: Any,
    seed: int,
    words: bool,
) -> None:
    folder = str(tmp_path_factory.mktemp("shard"))
    block = make_block(lengths, token_type=token_type, seed=seed, words=words)
    info = write_shard(folder, "val-00003.tar", "validation", block)
    assert columns(read_block(folder, info, 0)) == columns(block)
    assert info == write_shard(folder, "val-00003.tar", "validation", block)


def test_a_shard_of_several_blocks_is_read_at_any_of_them(tmp_path: Path) -> None:
    block = make_block([(1 + row % 7, 1 + row % 5) for row in range(2500)], words=True)
    info = write_shard(str(tmp_path), "train-00000.tar", "train", block)
    assert info.block_pairs == (1024, 1024, 452)
    assert columns(read_block(str(tmp_path), info, 2)) == columns(block.take(slice(2048, 2500)))
    read = list(read_blocks(str(tmp_path), info))
    assert np.concatenate([each.tokens for each in read]).tolist() == block.tokens.tolist()
    assert [len(each) for each in read] == list(info.block_pairs)


def test_plain_webdataset_reads_a_shard(tmp_path: Path) -> None:
    import webdataset

    block = make_block([(3, 4)] * 1500)
    info = write_shard(str(tmp_path), "train-00000.tar", "train", block)
    dataset = webdataset.WebDataset(str(tmp_path / info.name), shardshuffle=False)
    samples = list(dataset)
    assert [sample["__key__"] for sample in samples] == ["train-00000-00000", "train-00000-00001"]
    table = pa.ipc.open_file(io.BytesIO(samples[1]["arrow"])).read_all()
    assert table.schema.names == ["tokens", "a_length", "random_next", "document_a", "document_b"]
    assert table["tokens"][0].as_py() == block.tokens[1024 * 7 : 1025 * 7].tolist()


def test_a_tar_has_the_bytes_that_webdataset_writes(tmp_path: Path) -> None:
    from webdataset import TarWriter

    info = write_shard(str(tmp_path), "train-00000.tar", "train", make_block([(3, 4)] * 2500))
    blocks = [
        {"__key__": f"train-00000-{index:05d}", "arrow": shards._encode_block(block)}
        for index, block in enumerate(read_blocks(str(tmp_path), info))
    ]
    theirs = io.BytesIO()
    with TarWriter(theirs, encoder=False, mtime=0, user="", group="") as tar:
        for sample in blocks:
            tar.write(sample)
    assert len(blocks) == 3
    assert (tmp_path / info.name).read_bytes() == theirs.getvalue()


@pytest.mark.parametrize("damage", ["cut", "header", "data", "gone"])
def test_a_damaged_shard_is_an_error_that_names_file_and_offset(tmp_path: Path, damage: str) -> None:
    block = make_block([(30, 40)] * 2000)
    info = write_shard(str(tmp_path), "train-00000.tar", "train", block)
    path = tmp_path / info.name
    data = bytearray(path.read_bytes())
    offset = info.block_offsets[1]
    if damage == "cut":
        del data[offset + 5000 :]
    elif damage == "header":
        data[offset : offset + 300] = bytes(300)
    elif damage == "data":
        data[offset + 20_000] ^= 1
    path.write_bytes(data)
    if damage == "gone":
        path.unlink()
    where = "cannot read" if damage == "gone" else f"at byte {offset}"
    with pytest.raises(RunFailed, match=where) as failed:
        read_block(str(tmp_path), info, 1)
    assert str(path) in str(failed.value)
    if damage != "gone":
        assert len(read_block(str(tmp_path), info, 0)) == 1024, "the sound block is still read"
