"""Laws 3 and 4 on paper: who reads what is arithmetic, whatever ranks, workers and shards."""

import pickle
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.batches import order
from pipeline.batches.order import OrderPlan, default_lanes
from pipeline.batches.samples import Samples
from pipeline.batches.share import Share
from pipeline.errors import InputError


def divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


@st.composite
def plans(draw: Any) -> OrderPlan:
    """Blocks from one pair to a full 1,024 side by side, any lanes, windows shorter and longer than a lane."""
    lanes = draw(st.integers(1, 16))
    global_batch = lanes * draw(st.integers(1, 6))
    blocks = draw(st.lists(st.sampled_from([1, 1, 2, 7, 100, 1023, 1024]), min_size=1, max_size=12))
    if sum(blocks) < global_batch:
        blocks.append(global_batch)
    return OrderPlan(
        block_pairs=blocks,
        seed=draw(st.integers(0, 5)),
        phase=draw(st.integers(0, 2)),
        lanes=lanes,
        global_batch=global_batch,
        window=draw(st.sampled_from([17, 64, 4096])),
    )


def epoch_of_lane(plan: OrderPlan, lane: int, epoch: int) -> Samples:
    return plan.locate(lane, epoch * plan.lane_length, (epoch + 1) * plan.lane_length)


@given(plans(), st.integers(0, 1000))
def test_an_epoch_gives_each_sample_at_most_once_and_all_but_fewer_than_lanes(
    plan: OrderPlan, epoch: int
) -> None:
    seen = np.concatenate([epoch_of_lane(plan, lane, epoch).sample for lane in range(plan.lanes)])
    out = plan.sitting_out(epoch)
    assert len(out) == plan.left_out < plan.lanes
    assert np.array_equal(np.sort(np.concatenate([seen, out])), np.arange(plan.samples))


@given(plans())
def test_a_sample_is_the_same_pair_in_every_epoch(plan: OrderPlan) -> None:
    for epoch in (0, 3):
        for lane in range(plan.lanes):
            found = epoch_of_lane(plan, lane, epoch)
            assert np.array_equal(found.sample, plan.first_samples[found.block] + found.row)
            assert (found.row < np.asarray(plan.block_pairs)[found.block]).all()
            assert (found.epoch == epoch).all()


@given(plans(), st.data())
def test_a_lane_may_be_read_in_any_pieces(plan: OrderPlan, data: st.DataObject) -> None:
    lane = data.draw(st.integers(0, plan.lanes - 1))
    start = data.draw(st.integers(0, 3 * plan.lane_length))
    length = data.draw(st.integers(1, 2 * plan.lane_length))
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=5)))
    whole = plan.locate(lane, start, start + length)
    bounds = [start, *(start + cut for cut in cuts), start + length]
    pieces = [plan.locate(lane, first, last) for first, last in pairwise(bounds)]
    for name in ("block", "row", "sample", "epoch"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        assert np.array_equal(getattr(whole, name), joined), name


def test_a_plan_is_sent_without_what_it_has_worked_out() -> None:
    plan = OrderPlan(block_pairs=np.full(10_000, 1024, np.uint16), seed=1, phase=0, lanes=8, global_batch=8)
    for epoch in range(3):
        before = plan.locate(3, epoch * plan.lane_length, epoch * plan.lane_length + 100)
    sent = pickle.dumps(plan)
    assert len(sent) < 10_000 * 2 + 1000
    after = pickle.loads(sent).locate(3, 2 * plan.lane_length, 2 * plan.lane_length + 100)
    assert np.array_equal(after.sample, before.sample)


@given(plans(), st.sampled_from([np.uint16, np.int32, np.int64]), st.integers(0, 5))
def test_counts_of_any_type_give_the_same_order(plan: OrderPlan, kind: Any, epoch: int) -> None:
    counts = np.minimum(np.asarray(plan.block_pairs), 1024)
    assume(counts.sum() >= plan.global_batch)
    found = [
        epoch_of_lane(replace(plan, block_pairs=given), 0, epoch)
        for given in (counts.tolist(), counts.astype(kind))
    ]
    assert np.array_equal(found[0].sample, found[1].sample)
    assert np.array_equal(found[0].block, found[1].block)


@given(plans(), st.integers(0, 200))
def test_a_step_holds_the_same_samples_whatever_the_ranks(plan: OrderPlan, step: int) -> None:
    def step_samples(world_size: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for rank in range(world_size):
            for lane in Share(plan=plan, rank=rank, world_size=world_size, micro_batch=1).lanes:
                samples = plan.locate(lane, step * plan.per_lane, (step + 1) * plan.per_lane)
                found += zip(samples.epoch.tolist(), samples.sample.tolist(), strict=True)
        return sorted(found)

    alone = step_samples(1)
    assert len(alone) == plan.global_batch
    for world_size in divisors(plan.lanes):
        assert step_samples(world_size) == alone


@given(plans(), st.data())
def test_ranks_take_equal_steps_and_share_out_lanes_and_micro_batches(
    plan: OrderPlan, data: st.DataObject
) -> None:
    world_size = data.draw(st.sampled_from(divisors(plan.lanes)))
    micro_batch = data.draw(st.sampled_from(divisors(plan.global_batch // world_size)))
    workers = data.draw(st.integers(0, 9))
    shares = [
        Share(plan=plan, rank=rank, world_size=world_size, micro_batch=micro_batch, workers=workers)
        for rank in range(world_size)
    ]
    assert len({share.micro_batches for share in shares}) == 1
    assert [lane for share in shares for lane in share.lanes] == list(range(plan.lanes))
    for share in shares:
        possible = [
            count
            for count in range(1, max(1, workers) + 1)
            if share.micro_batches % count == 0 and len(share.lanes) % count == 0
        ]
        assert share.readers == possible[-1]
        assert [lane for r in range(share.readers) for lane in share.lanes_of(r)] == list(share.lanes)
        dealt = [step for r in range(share.readers) for step in share.micro_steps_of(r)]
        assert sorted(dealt) == list(range(share.micro_batches))
        for reader in range(share.readers):
            made = len(share.micro_steps_of(reader)) * micro_batch
            assert made == len(share.lanes_of(reader)) * plan.per_lane


@given(plans(), st.integers(0, 50))
def test_a_block_is_read_by_one_lane_unless_a_cut_falls_inside_it(plan: OrderPlan, epoch: int) -> None:
    readers: Counter[int] = Counter()
    for lane in range(plan.lanes):
        readers.update(set(epoch_of_lane(plan, lane, epoch).block.tolist()))
    assert sum(count - 1 for count in readers.values()) <= plan.lanes - 1


@given(plans())
def test_a_lane_reads_its_blocks_one_after_the_other(plan: OrderPlan) -> None:
    for lane in range(plan.lanes):
        position, read = 0, []
        while position < plan.lane_length:
            blocks = plan.window_samples(lane, position).blocks.tolist()
            read += blocks[1:] if read and read[-1] == blocks[0] else blocks
            position = plan.window_bounds(lane, position)[1]
        assert len(read) == len(set(read))


@pytest.mark.parametrize("blocks", [[1000], [10, 10], [1024] * 5 + [3], [1, 100_000]])
def test_those_sitting_out_are_others_each_epoch(blocks: list[int]) -> None:
    plan = OrderPlan(block_pairs=blocks, seed=1, phase=0, lanes=16, global_batch=16)
    assert plan.left_out
    out = [frozenset(plan.sitting_out(epoch).tolist()) for epoch in range(40)]
    assert all(now != before for now, before in pairwise(out))
    assert len(set(out)) > 4


@pytest.mark.parametrize("blocks", [[1003], [1, 1000, 2], [3, 500, 500]])
def test_all_samples_sit_out_equally_often(blocks: list[int]) -> None:
    plan = OrderPlan(block_pairs=blocks, seed=1, phase=0, lanes=10, global_batch=10)
    times = Counter(sample for epoch in range(1003) for sample in plan.sitting_out(epoch).tolist())
    assert set(times.values()) == {plan.left_out}
    assert len(times) == 1003


def test_a_position_far_out_costs_what_a_near_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[int] = []
    real = order.permutation

    def counted(key: int, size: int) -> Any:
        work.append(size)
        return real(key, size)

    monkeypatch.setattr(order, "permutation", counted)
    costs = []
    for step in (10, 10_000_000, 10**12):
        plan = OrderPlan(block_pairs=[1024] * 300 + [1], seed=1, phase=0, lanes=8, global_batch=64)
        work.clear()
        assert len(plan.locate(3, step * plan.per_lane, (step + 1) * plan.per_lane)) == plan.per_lane
        costs.append((len(work), max(work)))
    assert all(calls <= 3 and largest <= order.WINDOW for calls, largest in costs), costs


def test_epochs_seeds_phases_and_lanes_each_have_an_order_of_their_own() -> None:
    def samples(seed: int, phase: int, lane: int, epoch: int) -> tuple[int, ...]:
        plan = OrderPlan(block_pairs=[1024] * 4, seed=seed, phase=phase, lanes=2, global_batch=2)
        return tuple(epoch_of_lane(plan, lane, epoch).sample.tolist())

    cases = [(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)]
    assert len({samples(*case) for case in cases}) == len(cases)
    assert samples(1, 0, 0, 0) == samples(1, 0, 0, 0)


def test_windows_shuffle_and_lanes_begin_theirs_at_different_steps() -> None:
    plan = OrderPlan(block_pairs=[1024] * 64, seed=1, phase=0, lanes=8, global_batch=8)
    ends = []
    for lane in range(plan.lanes):
        position = 0
        while position < plan.lane_length:
            first, last = plan.window_bounds(lane, position)
            assert first == position < last <= position + plan.window
            if last < plan.lane_length:
                ends.append(last)
            position = last
    assert len(set(ends)) == len(ends)
    rows = plan.locate(0, 0, 1024).row
    assert 0.3 < (np.diff(rows) > 0).mean() < 0.7


def test_the_default_is_the_largest_divisor_up_to_64_lanes() -> None:
    assert [default_lanes(batch) for batch in (1, 6, 67, 130, 256, 4096)] == [1, 6, 1, 26, 64, 64]


@pytest.mark.parametrize(
    ("plan", "share", "words"),
    [
        ({"lanes": 3}, {}, "global_batch 64 is no multiple of lanes 3; set lanes=64"),
        ({"global_batch": 4000, "lanes": 4}, {}, "3072 pairs, fewer than one global batch of 4000"),
        ({"lanes": 0}, {}, "lanes is 0"),
        ({"seed": -1}, {}, "seed is -1"),
        ({}, {"world_size": 3}, "3 ranks don't divide the plan's 8 lanes; use 2 ranks"),
        (
            {},
            {"micro_batch": 7, "world_size": 2},
            "micro_batch 7 doesn't divide the 32 sequences.* set micro_batch=4",
        ),
        ({}, {"micro_batch": 0}, "micro_batch is 0"),
        ({}, {"rank": 2, "world_size": 2}, "rank 2"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_with_the_remedy(
    plan: dict[str, int], share: dict[str, int], words: str
) -> None:
    given_plan: dict[str, Any] = {"seed": 1, "phase": 0, "lanes": 8, "global_batch": 64} | plan
    given_share: dict[str, Any] = {"rank": 0, "world_size": 1, "micro_batch": 4} | share
    with pytest.raises(InputError, match=words):
        Share(plan=OrderPlan(block_pairs=[1024] * 3, **given_plan), **given_share)
