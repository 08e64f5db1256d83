"""Mixtures: laws 3 and 4 over several sources, and shares that hold at every position."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.batches import block_source
from pipeline.batches.block_source import BlockSource
from pipeline.batches.lane import Lane
from pipeline.batches.loader import TrainLoader
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.mixture import Mixture
from pipeline.batches.order import OrderPlan
from pipeline.batches.phase_order import phase_order
from pipeline.batches.samples import joined
from pipeline.batches.sources import Source, held_out_counts, identity
from pipeline.batches.special_ids import SpecialIds
from pipeline.errors import InputError

BLOCKS = st.lists(st.sampled_from([1, 2, 7, 100, 1024]), min_size=1, max_size=6)
WEIGHTS = st.one_of(st.floats(0.01, 100), st.sampled_from([0.1, 0.3, 1 / 3, 1e-6]))


@st.composite
def mixtures(draw: Any) -> Mixture:
    """Two to four sources, one of a single block of one pair beside one of thousands."""
    lanes = draw(st.integers(1, 8))
    plans = []
    for _ in range(draw(st.integers(2, 4))):
        blocks = draw(BLOCKS)
        blocks += [lanes] * (sum(blocks) < lanes)
        plans.append(OrderPlan(block_pairs=blocks, seed=3, phase=1, lanes=lanes, global_batch=lanes))
    return Mixture(
        plans=tuple(plans),
        weights=tuple(draw(WEIGHTS) for _ in plans),
        global_batch=lanes * draw(st.integers(1, min(5, sum(plan.samples for plan in plans) // lanes))),
    )


def read(mixture: Mixture, lane: int, start: int, stop: int) -> list[tuple[int, int]]:
    """(epoch, sample) at positions start … stop − 1 of a lane."""
    found: list[tuple[int, int]] = []
    while start < stop:
        first, last = mixture.window_bounds(lane, start)
        assert first <= start < last
        window = mixture.window_samples(lane, start)
        assert len(window) == last - first
        end = min(stop, last)
        here = slice(start - first, end - first)
        found += zip(window.epoch[here].tolist(), window.sample[here].tolist(), strict=True)
        start = end
    return found


def bounds(mixture: Mixture) -> list[int]:
    return np.cumsum([0] + [plan.samples for plan in mixture.plans]).tolist()


@given(mixtures(), st.integers(0, 10**9))
def test_each_source_has_its_share_of_the_first_positions(mixture: Mixture, position: int) -> None:
    counts = mixture.counts(position)
    assert sum(counts) == position
    whole = sum(mixture.weights)
    for count, weight in zip(counts, mixture.weights, strict=True):
        assert abs(count - position * weight / whole) <= len(mixture.plans) + 1e-6 * position * 1e-6
    for before, after in zip(counts, mixture.counts(position + 1), strict=True):
        assert after - before in (0, 1)


@given(mixtures(), st.integers(0, 10**6), st.integers(1, 300))
def test_what_a_lane_gives_is_what_the_sources_give_it_in_turn(
    mixture: Mixture, start: int, length: int
) -> None:
    lane = start % mixture.lanes
    first, _ = mixture.window_bounds(lane, start)
    _, last = mixture.window_bounds(lane, start + length)
    found = Counter(read(mixture, lane, first, last))
    expected: Counter[tuple[int, int]] = Counter()
    ranges = zip(mixture.plans, bounds(mixture), mixture.counts(first), mixture.counts(last), strict=False)
    for plan, base, begin, end in ranges:
        part = plan.as_it_lies(lane, begin, end)
        expected.update(zip(part.epoch.tolist(), (part.sample + base).tolist(), strict=True))
    assert found == expected


@given(mixtures())
def test_a_sample_stands_where_its_manifest_has_it(mixture: Mixture) -> None:
    pairs = np.concatenate([plan.block_pairs for plan in mixture.plans])
    firsts = np.cumsum(pairs) - pairs
    for lane in range(mixture.lanes):
        window = mixture.window_samples(lane, 0)
        assert len(set(window.blocks.tolist())) == len(window.blocks)
        assert np.array_equal(window.sample, firsts[window.block] + window.row)
        assert (window.row < pairs[window.block]).all()
        assert set(window.unfinished.tolist()) <= set(window.blocks.tolist())


@settings(max_examples=20)
@given(mixtures(), st.integers(0, 3))
def test_in_an_epoch_of_its_own_a_source_gives_each_pair_at_most_once(mixture: Mixture, which: int) -> None:
    which %= len(mixture.plans)
    plan, base = mixture.plans[which], bounds(mixture)[which]
    until = next(
        q
        for q in (1 << n for n in range(40))
        if mixture.counts(q)[which] >= min(plan.lane_length, 50) or q > 2_000
    )
    seen = [
        sample
        for lane in range(mixture.lanes)
        for epoch, sample in read(mixture, lane, 0, until)
        if epoch == 0 and base <= sample < base + plan.samples
    ]
    assert len(seen) == len(set(seen))


@given(mixtures(), st.data())
def test_a_mixture_may_be_read_in_any_pieces(mixture: Mixture, data: st.DataObject) -> None:
    lane = data.draw(st.integers(0, mixture.lanes - 1))
    start = data.draw(st.integers(0, 50_000))
    cuts = sorted(data.draw(st.lists(st.integers(0, 400), max_size=4)))
    whole = read(mixture, lane, start, start + 400)
    pieces = [read(mixture, lane, start + a, start + b) for a, b in pairwise([0, *cuts, 400])]
    assert [sample for piece in pieces for sample in piece] == whole


def test_every_step_keeps_to_the_weights_as_nearly_as_whole_sequences_can() -> None:
    plans = tuple(
        OrderPlan(block_pairs=[1024] * blocks, seed=1, phase=0, lanes=16, global_batch=16)
        for blocks in (40, 20, 1)
    )
    mixture = Mixture(plans=plans, weights=(0.6, 0.3, 0.1), global_batch=256)
    edges = bounds(mixture)
    for step in range(40):
        drawn = [
            sample
            for lane in range(16)
            for _, sample in read(mixture, lane, step * mixture.per_lane, (step + 1) * mixture.per_lane)
        ]
        counts, _ = np.histogram(drawn, edges)
        assert np.abs(counts - 256 * np.array([0.6, 0.3, 0.1])).max() <= 8
    gone_through = [400 * 256 * w / p.samples for w, p in zip((0.6, 0.3, 0.1), plans, strict=True)]
    assert mixture.epochs_of_sources(400) == pytest.approx(gone_through, rel=0.01)


@pytest.fixture(scope="module")
def sources(make_shards: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    made = []
    for number, (train, weight) in enumerate([((1500, 300), 3.0), ((40,), 1.0), ((2000,), 0.5)]):
        folder = tmp_path_factory.mktemp("source")
        manifest = make_shards(folder, train=train, validation=(30,), longest=24, seed=number)
        made.append(Source(folder=str(folder), manifest=manifest, weight=weight))
    return made


def loader(sources: list[Source], special: SpecialIds, **more: Any) -> TrainLoader:
    given: dict[str, Any] = {"seed": 1, "phase": 0, "lanes": 8, "global_batch": 48, "micro_batch": 6}
    given |= {"sequence_length": 24, "masking": MaskingConfig(), "special": special}
    return TrainLoader(sources=sources, **(given | more))


def step_contents(sources: list[Source], special: SpecialIds, **more: Any) -> list[set[tuple[Any, ...]]]:
    """For each step what its sequences look like, masks included, over all ranks."""
    ranks = more.pop("world_size", 1)
    found: list[set[tuple[Any, ...]]] = []
    for rank in range(ranks):
        with loader(sources, special, rank=rank, world_size=ranks, **more) as made:
            for index, step in enumerate(made):
                if not rank:
                    found.append(set())
                for batch in step.micro_batches:
                    for row in range(batch.sequences):
                        here = slice(*batch.sequence_starts_B1[row : row + 2])
                        content = batch.epochs_B[row], batch.samples_B[row], batch.tokens_T[here].tobytes()
                        assert content not in found[index]
                        found[index].add(content)
    return found


@pytest.mark.parametrize(
    "more",
    [{"world_size": 2}, {"world_size": 4, "micro_batch": 3}, {"micro_batch": 48}, {"workers": 2}],
)
def test_a_step_is_the_same_whatever_ranks_micro_batches_and_workers(
    sources: list[Source], special: SpecialIds, more: dict[str, int]
) -> None:
    alone = step_contents(sources, special, stop_step=30)
    assert all(len(step) == 48 for step in alone)
    assert step_contents(sources, special, stop_step=30, **more) == alone
    assert step_contents(sources, special, start_step=17, stop_step=30, **more) == alone[17:]


def test_a_small_source_is_gone_through_often_and_masked_anew_each_time(
    sources: list[Source], special: SpecialIds
) -> None:
    seen = Counter[tuple[int, bytes]]()
    times: Counter[int] = Counter()
    first, last = 1800, 1840
    for step in step_contents(sources, special, stop_step=150):
        for _, sample, tokens in step:
            if first <= sample < last:
                seen[int(sample), tokens] += 1
                times[int(sample)] += 1
    # 1 in 4.5 of 7,200 sequences from 40 pairs.
    assert sum(times.values()) == pytest.approx(1600, abs=10)
    assert min(times.values()) >= 38
    assert max(times.values()) <= 42
    assert len(seen) > 0.6 * sum(times.values())


def test_a_small_sources_blocks_are_read_once_a_window(
    sources: list[Source], special: SpecialIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = phase_order(sources, seed=1, phase=0, lanes=8, global_batch=48, sequence_length=24)
    assert isinstance(order, Mixture)
    reads = Counter[tuple[str, int]]()
    real = block_source.read_block_from

    def counted(stream: Any, path: str, shard: Any, index: int) -> Any:
        reads[path, index] += 1
        return real(stream, path, shard, index)

    monkeypatch.setattr(block_source, "read_block_from", counted)
    blocks = BlockSource([(source.folder, source.manifest.of_split("train")) for source in sources])
    lane = Lane(order, 3, blocks, special)
    its_block = f"{sources[1].folder}/train-00000.tar", 0
    position, seen = 0, 0
    for _ in range(3):
        _, end = order.window_bounds(3, position)
        reads.clear()
        laid = list(lane.parts(position, end))
        small = np.concatenate([part.samples for part in laid])
        small = small[(small >= 1800) & (small < 1840)]
        # Of the 40 pairs five are this lane's, in more than eight epochs.
        assert len(np.unique(small)) == 5
        assert len(small) > 5 * 8
        assert max(reads.values(), default=0) <= 1
        seen += reads[its_block]
        position = end
    blocks.close()
    # Each window begins inside it, so the next ones have it at hand.
    assert seen == 1


def test_one_source_alone_is_no_mixture(sources: list[Source]) -> None:
    order = phase_order(sources[:1], seed=1, phase=0, lanes=8, global_batch=48, sequence_length=24)
    assert isinstance(order, OrderPlan)
    assert identity(sources[:1]) == sources[0].manifest.hash


def test_the_identity_holds_shares_and_hashes_and_no_folder(sources: list[Source]) -> None:
    first, second, _ = sources
    assert identity([first, second]) == f"3/4 of {first.manifest.hash} + 1/4 of {second.manifest.hash}"
    moved = Source(folder="elsewhere", manifest=first.manifest, weight=6)
    assert identity([moved, Source(folder="x", manifest=second.manifest, weight=2)]) == identity(
        [first, second]
    )


def test_weights_that_are_nearly_others_are_others(sources: list[Source]) -> None:
    """Rounded, they would give two orders one identity."""
    first, second, _ = sources
    thirds = [replace(first, weight=1), replace(second, weight=2)]
    nearly = [replace(first, weight=0.333333), replace(second, weight=0.666667)]
    assert identity(thirds) == f"1/3 of {first.manifest.hash} + 2/3 of {second.manifest.hash}"
    assert identity(nearly) != identity(thirds)


@dataclass
class Held:
    """A manifest as far as held-out pairs go."""

    count: int

    def pairs(self, split: str) -> int:
        assert split == "validation"
        return self.count


@given(
    st.integers(1, 5000),
    st.lists(st.tuples(st.floats(0.01, 9), st.integers(1, 5000)), min_size=1, max_size=5),
)
def test_held_out_pairs_are_of_each_source_by_weight_as_far_as_there_are(
    most: int, sources: list[tuple[float, int]]
) -> None:
    made = [Source(folder="", manifest=Held(held), weight=weight) for weight, held in sources]  # type: ignore[arg-type]
    counts, whole = held_out_counts(most, made), sum(weight for weight, _ in sources)
    assert sum(counts) <= most + len(counts)
    for count, (weight, held) in zip(counts, sources, strict=True):
        assert 1 <= count <= held
        assert count == 1 or abs(count - sum(counts) * weight / whole) <= len(counts)


def test_a_source_with_few_held_out_pairs_is_not_outweighed_by_the_others() -> None:
    large, small = (Source(folder="", manifest=Held(n), weight=w) for n, w in ((900, 1), (77, 9)))  # type: ignore[arg-type]
    assert held_out_counts(2048, [large, small]) == [8, 77]
    assert held_out_counts(40, [large, small]) == [4, 36]


def test_a_batch_that_no_mixture_can_fill_is_refused(sources: list[Source], special: SpecialIds) -> None:
    with pytest.raises(InputError, match="the shards hold 3840 pairs, fewer than one global batch of 80000"):
        loader(sources, special, global_batch=80_000, micro_batch=8)
    with pytest.raises(InputError, match="global_batch 50 is no multiple of lanes 8"):
        loader(sources, special, global_batch=50, micro_batch=1)


def test_a_source_with_fewer_pairs_than_lanes_is_refused_by_name(
    sources: list[Source], make_shards: Any, special: SpecialIds, tmp_path: Path
) -> None:
    few = Source(folder=str(tmp_path), manifest=make_shards(tmp_path, train=(7,), longest=24))
    with pytest.raises(InputError, match=f"the shards {tmp_path} hold 7 pairs, fewer than the 8 lanes"):
        loader([*sources, few], special)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_joined_parts_keep_their_order(sizes: list[int]) -> None:
    plan = OrderPlan(block_pairs=[64, 64, 64], seed=1, phase=0, lanes=1, global_batch=1)
    edges = np.cumsum([0, *sizes]).tolist()
    parts = [plan.as_it_lies(0, a, b) for a, b in pairwise(edges)]
    whole = plan.as_it_lies(0, 0, edges[-1])
    assert np.array_equal(joined(parts).sample, whole.sample)
    assert np.array_equal(joined(parts).block, whole.block)
