"""Blocks are read ahead of their need; a disk that fails or doesn't answer is asked again, then named."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.batches import block_source
from pipeline.batches.block_source import BlockSource
from pipeline.batches.loader import TrainLoader
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import Manifest
from pipeline.errors import RunFailed

BLOCKS = 9


@pytest.fixture(scope="module")
def shards(make_shards: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    folder = tmp_path_factory.mktemp("shards")
    return str(folder), make_shards(folder, train=(5000, 3500), longest=12)


def source_of(shards: tuple[str, Manifest]) -> BlockSource:
    return BlockSource([(shards[0], shards[1].of_split("train"))])


class Disk:
    """Reads that keep to the time they are given, and are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[int, float]] = []
        self.silent = 0
        self.released = threading.Event()
        self._real = block_source.read_block_from
        monkeypatch.setattr(block_source, "read_block_from", self.read)

    def read(self, stream: Any, path: str, shard: Any, index: int) -> Any:
        self.reads.append((shard.block_offsets[index], time.monotonic()))
        if self.silent:
            self.silent -= 1
            self.released.wait(30)
        return self._real(stream, path, shard, index)


def test_what_was_requested_is_read_once_whoever_waits(
    shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    source = source_of(shards)
    source.request(range(BLOCKS))
    source.request(range(BLOCKS))
    lengths = [len(source.read(number)) for number in range(BLOCKS)]
    assert lengths == [1024] * 4 + [904] + [1024] * 3 + [428]
    assert len(disk.reads) == BLOCKS
    source.close()


def test_a_block_is_asked_for_before_its_window_begins(
    shards: tuple[str, Manifest], special: SpecialIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a slow disk costs the trainer nothing while it has other sequences to go on with."""
    needed: list[tuple[int, bool]] = []
    real = BlockSource.read

    def read(source: BlockSource, number: int) -> Any:
        pending = source._pending.get(number)
        time.sleep(0.05)
        needed.append((number, pending is not None and pending.done()))
        return real(source, number)

    monkeypatch.setattr(BlockSource, "read", read)
    disk = Disk(monkeypatch)
    made = TrainLoader(
        sources=[Source(folder=shards[0], manifest=shards[1])], seed=1, phase=0, lanes=2,
        global_batch=100, micro_batch=50, sequence_length=12, masking=MaskingConfig(), special=special, stop_step=200,
    )  # fmt: skip
    running = iter(made)
    next(running)  # for which every lane reads its first window
    first = len(needed)
    for _ in running:
        pass
    assert len(needed) > first
    assert all(ready for _, ready in needed[first:])
    assert len(disk.reads) == len(needed)  # none is read that no step takes


def test_a_read_that_does_not_answer_is_asked_again_and_holds_nothing_else_up(
    shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(block_source, "_SECONDS_TO_ANSWER", 0.3)
    source = source_of(shards)
    disk.silent = 4  # every thread is stuck, and five requests wait behind them
    source.request(range(BLOCKS))
    assert [len(source.read(number)) for number in (8, 0)] == [428, 1024]
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith("warning: reading ")
    assert "train-00001.tar at byte " in said[0]
    assert said[0].endswith("has not answered for 0.3 s; asking again")
    disk.released.set()
    source.close()


def test_a_disk_that_never_answers_is_named_with_the_remedy(
    shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(block_source, "_SECONDS_TO_ANSWER", 0.05)
    source = source_of(shards)
    disk.silent = 1000
    with pytest.raises(
        RunFailed, match=r"cannot read .*train-00000.tar at byte 0: no answer in 5 times"
    ) as failure:
        source.read(0)
    assert "\n" not in str(failure.value)
    disk.silent = 0
    disk.released.set()
    assert len(source.read(0)) == 1024  # back again
    source.close()


def test_threads_end_with_their_source(shards: tuple[str, Manifest], tmp_path: Path) -> None:
    source = source_of(shards)
    source.request(range(BLOCKS))
    source.close()
    deadline = time.monotonic() + 10
    while any(thread.name == "bertpipe-blocks" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
