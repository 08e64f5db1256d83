"""Runs of parts of the hashes, merged where there are many, and removed once nothing reads them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus import merging, reducing, runs, shuffling, spills
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.merging import merge_plan, merge_runs, read_merged
from pipeline.corpus.runs import EVERYTHING, Run, Tokenised, hash_ranges, overlap, read_range, write_runs
from workshop.folders import contents


def documents_of(highs: list[int]) -> Tokenised:
    """A document of one sentence of two tokens for each hash."""
    count = len(highs)
    return Tokenised(
        high=np.array(highs, np.uint64),
        low=np.zeros(count, np.uint64),
        copies=np.ones(count, np.uint8),
        source=np.zeros(count, np.uint16),
        sentence_counts=np.ones(count, np.int64),
        sentence_lengths=np.full(count, 2, np.uint32),
        tokens=np.repeat(np.array(highs, np.uint64) % 1000, 2).astype(np.uint16),
    )


hashes = st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=30)


@settings(max_examples=30)
@given(st.lists(hashes, min_size=1, max_size=9), st.integers(1, 12), hashes)
def test_merged_runs_hold_what_the_runs_held_in_every_range(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], least: int, bounds: list[int]
) -> None:
    folder = str(tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(runs, "_LEAST_TOKENS", least)
        patch.setattr(merging, "_GROUP", 3)
        written = [
            run
            for number, batch in enumerate(batches)
            for run in write_runs(folder, f"{number}", documents_of(batch))
        ]
        tasks = merge_plan(folder, written, most=1)
        assert bool(tasks) == (len(batches) > 1)
        for task in tasks:
            assert read_merged(task) is None
            merge_runs(task)
        merged = [run for task in tasks for run in read_merged(task) or ()] or written
    assert sum(run.documents for run in written) == sum(map(len, batches))
    groups = -(-len(batches) // 3)
    assert sum(overlap(run.hashes, (0, 1)) for run in merged) == (groups if len(batches) > 1 else 1)
    low, high = min(bounds), max(bounds) + 1
    for wanted in (EVERYTHING, (low, high)):
        before, after = read_range(folder, written, wanted), read_range(folder, merged, wanted)
        assert after.high.tolist() == before.high.tolist()
        assert after.high.tolist() == sorted(
            {each for batch in batches for each in batch if wanted[0] <= each < wanted[1]}
        )
        assert after.tokens.tolist() == before.tokens.tolist()


def test_few_runs_are_not_merged(tmp_path: Path) -> None:
    written = [
        run for number in range(3) for run in write_runs(str(tmp_path), f"{number}", documents_of([1, 2]))
    ]
    assert merge_plan(str(tmp_path), written, most=3) == []
    assert len(merge_plan(str(tmp_path), written, most=2)) == 8


def test_runs_are_removed_as_what_they_hold_becomes_shards(tmp_path: Path) -> None:
    written = [
        Run(name=f"{index}.arrow", bytes=0, documents=0, distinct=0, hashes=part)
        for index, part in enumerate(hash_ranges(4))
    ]
    for run in written:
        (tmp_path / run.name).touch()
    freeing = shuffling.Freeing(str(tmp_path), written)
    for bound, left in ((0, 4), (1 << 62, 3), ((1 << 62) + 5, 3), (3 << 62, 1), (1 << 64, 0)):
        freeing.below(bound)
        assert len(list(tmp_path.iterdir())) == left


@pytest.fixture
def crumbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spills of many runs of many parts, merged, so that a small corpus goes the way of a large one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(runs, "_LEAST_TOKENS", 300)
    monkeypatch.setattr(merging, "_GROUP", 3)
    monkeypatch.setattr(merging, "_MOST_RUNS", 4)
    monkeypatch.setattr(merging.merge_plan, "__kwdefaults__", {"most": 4})
    monkeypatch.setattr(spills.SpillWriter.__init__, "__kwdefaults__", {"held_tokens": 5000})
    monkeypatch.setattr("pipeline.corpus.mapper._BATCH_CHARACTERS", 4000)


class Killed(BaseException):
    """Stands for `kill -9` in the process that runs the tests."""


def test_a_merged_corpus_gives_the_same_shards_and_its_runs_go_on_the_way(
    crumbs: None,
    shard: Callable[..., Manifest],
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left: list[int] = []
    reduce = reducing.reduce_partition

    def watched(task: Any) -> Any:
        left.append(len([name for name in os.listdir(task.work) if name.endswith(".arrow")]))
        return reduce(task)

    monkeypatch.setattr(reducing, "reduce_partition", watched)
    shard()
    assert contents(tmp_path / "shards") == expected
    assert list((tmp_path / "shards").glob(".work*")) == []
    validation, *training = left
    assert validation == training[0]
    assert training == sorted(training, reverse=True)
    assert training[-1] < 0.6 * training[0]


@pytest.mark.parametrize("stride", [1, 5, 23])
def test_killed_after_any_step_only_what_is_missing_is_made(
    crumbs: None,
    shard: Callable[..., Manifest],
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stride: int,
) -> None:
    steps: list[str] = []
    inner = {"map_splits": shuffling.map_splits, "merge_runs": shuffling.merge_runs}
    allowed = 0

    def counted(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def step(task: Any) -> Any:
            if len(steps) >= allowed:
                raise Killed
            result = function(task)
            steps.append(task.plan.name if hasattr(task, "plan") else task.stem)
            return result

        return step

    for name, function in inner.items():
        monkeypatch.setattr(shuffling, name, counted(function))
    monkeypatch.setattr(reducing, "reduce_partition", counted(reducing.reduce_partition))
    for _ in range(200):
        allowed += stride
        try:
            shard()
            break
        except Killed:
            continue
    assert contents(tmp_path / "shards") == expected
    assert len(steps) == len(set(steps)), "nothing was done twice"
    assert len(steps) > 20


def test_a_run_that_is_lost_midway_is_made_anew(
    crumbs: None,
    shard: Callable[..., Manifest],
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reduce, made = reducing.reduce_partition, []

    def few(task: Any) -> Any:
        if len(made) == 2:
            raise Killed
        made.append(task)
        return reduce(task)

    monkeypatch.setattr(reducing, "reduce_partition", few)
    with pytest.raises(Killed):
        shard()
    for path in (tmp_path / "shards" / ".work").glob("merge-*.arrow"):
        path.unlink()
    monkeypatch.setattr(reducing, "reduce_partition", reduce)
    shard()
    assert contents(tmp_path / "shards") == expected
