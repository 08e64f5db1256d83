"""Blocks are read ahead of their need; a disk that fails or doesn't answer is asked again, then named."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterable
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
    """Reads that are counted, of which some don't answer until they are released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[str, int]] = []
        self.silent = 0
        self.dead = ""  # a folder whose reads are all silent
        self.released = threading.Event()
        self._real = block_source.read_block_from
        monkeypatch.setattr(block_source, "read_block_from", self.read)

    def read(self, stream: Any, path: str, shard: Any, index: int) -> Any:
        self.reads.append((Path(path).name, index))
        if self.silent or (self.dead and path.startswith(self.dead)):
            self.silent = max(0, self.silent - 1)
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
    step = 0
    asked: dict[int, int] = {}
    needed: list[tuple[int, int, int]] = []
    real_request, real_read = BlockSource.request, BlockSource.read

    def request(source: BlockSource, numbers: Iterable[int]) -> None:
        numbers = list(numbers)
        for number in numbers:
            asked.setdefault(number, step)
        real_request(source, numbers)

    def read(source: BlockSource, number: int) -> Any:
        block = real_read(source, number)
        needed.append((number, asked.pop(number), step))
        return block

    monkeypatch.setattr(BlockSource, "request", request)
    monkeypatch.setattr(BlockSource, "read", read)
    disk = Disk(monkeypatch)
    made = TrainLoader(
        sources=[Source(folder=shards[0], manifest=shards[1])], seed=1, phase=0, lanes=2,
        global_batch=100, micro_batch=50, sequence_length=12, masking=MaskingConfig(), special=special, stop_step=200,
    )  # fmt: skip
    for _ in made:
        step += 1
    later = [(asked_at, needed_at) for _, asked_at, needed_at in needed if needed_at]
    assert len({needed_at for _, needed_at in later}) >= 4  # windows after the first
    assert all(asked_at < needed_at for asked_at, needed_at in later)
    assert not asked
    assert len(disk.reads) == len(needed)  # none is read that no step takes


def test_a_read_that_does_not_answer_is_asked_again_first_and_holds_nothing_else_up(
    shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(block_source, "_SECONDS_TO_ANSWER", 0.5)
    counted = block_source.read_block_from
    calls, begun = itertools.count(), []
    all_four = threading.Barrier(4)

    def read(stream: Any, path: str, shard: Any, index: int) -> Any:
        call = next(calls)
        begun.append((Path(path).name, index))
        if 4 <= call < 8:
            all_four.wait(30)  # no new thread takes its second before each has its first
        return counted(stream, path, shard, index)

    monkeypatch.setattr(block_source, "read_block_from", read)
    source = source_of(shards)
    disk.silent = 4  # every thread is stuck, and five requests wait behind them
    source.request(range(BLOCKS))
    while len(disk.reads) < 4:
        time.sleep(0.001)
    assert [len(source.read(number)) for number in (8, 0)] == [428, 1024]
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("warning: reading ")
    assert "train-00001.tar at byte " in said
    assert said.endswith("has not answered for 0.5 s; asking again")
    for number in range(1, 8):
        source.read(number)
    # What is waited for is among what four new threads take first.
    assert ("train-00001.tar", 3) in begun[4:8]
    # Once more what was stuck, and once all else.
    assert Counter(disk.reads[4:]) == Counter(set(disk.reads))
    disk.released.set()
    source.close()


def test_one_late_read_among_slow_ones_is_asked_again_once(
    shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(block_source, "_SECONDS_TO_ANSWER", 0.4)
    counted = block_source.read_block_from
    again = threading.Event()

    def read(stream: Any, path: str, shard: Any, index: int) -> Any:
        is_late = not disk.reads
        block = counted(stream, path, shard, index)
        if is_late:
            again.wait(30)
        elif (path, index) == (f"{shards[0]}/train-00000.tar", 0):
            again.set()
        time.sleep(0.05 if is_late else 0.15)
        return block

    monkeypatch.setattr(block_source, "read_block_from", read)
    source = source_of(shards)
    source.request([0])
    while not disk.reads:
        time.sleep(0.001)
    source.request(range(BLOCKS))
    assert [len(source.read(number)) for number in range(BLOCKS)] == [1024] * 4 + [904] + [1024] * 3 + [428]
    assert disk.reads.count(("train-00000.tar", 0)) == 2
    assert len(disk.reads) <= BLOCKS + 4  # at most what the other threads had in hand, too
    assert "train-00000.tar at byte 0 has not answered" in capfd.readouterr().err
    source.close()


def test_a_late_answer_counts_while_the_second_ask_is_waited_for(
    shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(block_source, "_SECONDS_TO_ANSWER", 0.2)
    asked_again, never = threading.Event(), threading.Event()
    real = block_source.read_block_from

    def read(*those: Any) -> Any:
        if disk.reads:
            asked_again.set()
            disk.silent = 1
            disk.released = never
        else:
            disk.silent = 1
            disk.released = asked_again
        return real(*those)

    monkeypatch.setattr(block_source, "read_block_from", read)
    source = source_of(shards)
    assert len(source.read(0)) == 1024
    assert len(disk.reads) == 2
    never.set()
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
    assert len(disk.reads) == 5 + 1  # nothing was asked for after the last time
    source.close()


def test_a_dead_disk_holds_few_threads_and_no_other_folder_up(
    shards: tuple[str, Manifest], make_shards: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    live = str(tmp_path), make_shards(tmp_path, train=(300,), longest=12)
    disk = Disk(monkeypatch)
    monkeypatch.setattr(block_source, "_SECONDS_TO_ANSWER", 0.05)
    source = BlockSource([(folder, made.of_split("train")) for folder, made in (shards, live)], damage="skip")
    disk.dead = shards[0]
    before = threading.active_count()
    for _ in range(3):
        for number in range(BLOCKS):
            source.request(range(BLOCKS))
            assert not len(source.read(number).tokens)
    assert len(disk.reads) <= block_source._MOST_WAITING
    assert threading.active_count() - before <= block_source._MOST_WAITING + block_source._THREADS
    assert len(source.read(BLOCKS).tokens)
    disk.released.set()
    deadline = time.monotonic() + 10
    while not len(source.read(0).tokens):  # back again, as soon as a thread is
        assert time.monotonic() < deadline
        time.sleep(0.01)
    source.close()


def test_threads_end_with_their_source(shards: tuple[str, Manifest], tmp_path: Path) -> None:
    source = source_of(shards)
    source.request(range(BLOCKS))
    source.close()
    deadline = time.monotonic() + 10
    while any(thread.name == "bertpipe-blocks" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
