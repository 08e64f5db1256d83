"""Laws 3, 4 and 6 with real tars."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches import block_source
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.microbatch import IGNORED, Buckets
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.shards import ShardInfo, read_block
from pipeline.errors import InputError
from workshop.micro_batches import by_all_readers
from workshop.small_loader import ACROSS, GLOBAL, LANES, contents, loader, same, steps


def test_a_micro_batch_is_the_shards_pairs_laid_out_and_masked(shards: Any, special: SpecialIds) -> None:
    folder, manifest = shards
    blocks = [
        read_block(folder, shard, index)
        for shard in manifest.of_split("train")
        for index in range(len(shard.block_pairs))
    ]
    firsts = np.cumsum([0] + [len(block) for block in blocks])
    (step,) = steps(loader(shards, special, micro_batch=16), 1)
    assert len(step.micro_batches) == 3
    assert step.masked == sum(int((b.masked_labels_M != IGNORED).sum()) for b in step.micro_batches)
    assert step.tokens == sum(int(b.sequence_starts_B1[-1]) for b in step.micro_batches)
    for index, batch in enumerate(step.micro_batches):
        assert batch.position == (0, index)
        assert batch.sequences == 16 == len(batch.next_labels_B)
        original = batch.tokens_T.copy()
        counted = batch.masked_labels_M != IGNORED
        assert counted.sum() == batch.masked
        assert counted[: batch.masked].all()
        original[batch.masked_positions_M[counted]] = batch.masked_labels_M[counted]
        for row, sample in enumerate(batch.samples_B):
            number = int(np.searchsorted(firsts, sample, side="right")) - 1
            block, pair = blocks[number], int(sample - firsts[number])
            tokens = block.tokens[block.offsets[pair] : block.offsets[pair + 1]].tolist()
            a = int(block.a_lengths[pair])
            here = slice(*batch.sequence_starts_B1[row : row + 2])
            expected = [2, *tokens[:a], 3, *tokens[a:], 3]
            assert original[here].tolist() == expected
            assert batch.segments_T[here].tolist() == [0] * (a + 2) + [1] * (len(tokens) - a + 1)
            assert batch.positions_T[here].tolist() == list(range(len(expected)))
            assert batch.next_labels_B[row] == block.random_next[pair]
        assert batch.longest == np.diff(batch.sequence_starts_B1).max()


def test_buckets_pad_with_what_counts_nowhere(shards: Any, special: SpecialIds) -> None:
    (step,) = steps(loader(shards, special, buckets=Buckets(tokens=256, masked=64)), 1)
    for batch in step.micro_batches:
        assert len(batch.tokens_T) == len(batch.segments_T) == len(batch.positions_T)
        assert len(batch.tokens_T) % 256 == 0 == len(batch.masked_positions_M) % 64
        assert not batch.tokens_T[batch.tokens :].any()
        assert (batch.masked_labels_M[batch.masked :] == IGNORED).all()
        assert not batch.masked_positions_M[batch.masked :].any()


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 3, 6]),
    st.integers(1, 4),
    st.sampled_from([0, 1, 55, ACROSS, 57, 112, 10_000_000]),
)
def test_a_step_is_the_same_whatever_ranks_micro_batches_workers_and_restarts(
    shards: Any, special: SpecialIds, world_size: int, micro_batch: int, workers: int, step: int
) -> None:
    (alone,) = steps(loader(shards, special, micro_batch=GLOBAL, start_step=step), 1)
    assert len(np.unique(alone.micro_batches[0].epochs_B)) == (2 if step in (ACROSS, 112) else 1)
    found = []
    for rank in range(world_size):
        share = {"rank": rank, "world_size": world_size, "micro_batch": micro_batch, "workers": workers}
        made = by_all_readers(loader(shards, special, start_step=step, **share), step)
        assert [batch.micro_step for batch in made] == list(range(GLOBAL // (world_size * micro_batch)))
        found += made
    assert contents(found) == contents(list(alone.micro_batches))
    assert sum(batch.masked for batch in found) == alone.masked


@given(st.lists(st.sampled_from([1, 2, 9, 400, 1500]), min_size=1, max_size=5), st.integers(0, 3))
def test_an_epoch_of_any_shards_gives_every_pair_once(
    make_shards: Any, special: SpecialIds, tmp_path_factory: Any, sizes: list[int], epoch: int
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    manifest = make_shards(folder, train=[*sizes, GLOBAL], longest=12)
    pairs = sum(sizes) + GLOBAL
    length = pairs // LANES
    first, last = epoch * length * LANES // GLOBAL, -(-(epoch + 1) * length * LANES // GLOBAL)
    made = loader((str(folder), manifest), special, micro_batch=24, start_step=first, stop_step=last)
    times = Counter(
        int(sample)
        for step in made
        for batch in step.micro_batches
        for sample, its_epoch in zip(batch.samples_B, batch.epochs_B, strict=True)
        if its_epoch == epoch
    )
    assert set(times.values()) == {1}
    assert set(times) == set(range(pairs)) - set(made.plan.sitting_out(epoch).tolist())


def test_stopped_at_any_step_a_new_loader_goes_on_exactly(shards: Any, special: SpecialIds) -> None:
    whole = steps(loader(shards, special), 70)
    for stop in (1, 31, 56, 69):
        rest = steps(loader(shards, special, start_step=stop, stop_step=70), 100)
        assert [step.step for step in rest] == list(range(stop, 70))
        for step, expected in zip(rest, whole[stop:], strict=True):
            assert all(map(same, step.micro_batches, expected.micro_batches))


def test_each_block_is_read_by_one_worker_of_one_rank(
    make_shards: Any, special: SpecialIds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 8,900 pairs a lane: windows of 4,096, which end in blocks that the next ones begin in.
    pairs = 8 * 8900
    manifest = make_shards(tmp_path, train=(20_000, 700, 30_000, pairs - 50_700), longest=6)
    blocks = sum(len(shard.block_pairs) for shard in manifest.of_split("train"))
    reads: Counter[tuple[str, int]] = Counter()
    real = block_source.read_block_from

    def counted(stream: Any, path: str, shard: ShardInfo, index: int) -> Any:
        reads[path, index] += 1
        return real(stream, path, shard, index)

    monkeypatch.setattr(block_source, "read_block_from", counted)
    readers_of: Counter[tuple[str, int]] = Counter()
    for rank in range(2):
        made = loader(
            (str(tmp_path), manifest), special, rank=rank, world_size=2, workers=2, sequence_length=6,
            global_batch=800, micro_batch=100, stop_step=pairs // 800,
        )  # fmt: skip
        for reader in range(made.share.readers):
            reads.clear()
            for _ in made._assembly.chunks(reader):
                pass
            lanes = len(made.share.lanes_of(reader))
            # Once each, but for a block that a cut between two of this worker's lanes falls in.
            assert sum(reads.values()) - len(reads) <= lanes - 1
            readers_of.update(reads.keys())
    assert len(readers_of) == blocks
    # Three cuts between four workers.
    assert sum(count - 1 for count in readers_of.values()) <= 3


def test_a_moving_rate_is_that_of_the_step_whoever_loads_it(shards: Any, special: SpecialIds) -> None:
    masking = MaskingConfig(strategy="span", rate=0.5, final_rate=0.1)
    made = {"masking": masking, "steps": 41}
    whole = steps(loader(shards, special, **made), 41)
    shares = [step.masked / step.tokens for step in whole]
    assert shares[0] == pytest.approx(0.5, abs=0.03)
    assert shares[20] == pytest.approx(0.3, abs=0.03)
    assert shares[40] == pytest.approx(0.1, abs=0.03)
    (late,) = steps(loader(shards, special, **made, start_step=40, micro_batch=3, workers=1), 1)
    assert contents(list(late.micro_batches)) == contents(list(whole[40].micro_batches))
    # A stop before the end is no other phase.
    (early,) = steps(loader(shards, special, **made, start_step=20, stop_step=21), 1)
    assert contents(list(early.micro_batches)) == contents(list(whole[20].micro_batches))
    with pytest.raises(InputError, match="give the phase's steps"):
        loader(shards, special, masking=masking)


def test_static_masks_are_those_of_the_epoch_before(shards: Any, special: SpecialIds) -> None:
    def masks(epochs: int | None) -> list[dict[int, tuple[bytes, ...]]]:
        found: list[dict[int, tuple[bytes, ...]]] = [{}, {}]
        for step in steps(loader(shards, special, masking=MaskingConfig(epochs=epochs)), 2 * ACROSS):
            for (epoch, sample), content in contents(list(step.micro_batches)).items():
                if epoch < 2:
                    found[epoch][sample] = content
        return found

    first, second = masks(1)
    both = first.keys() & second.keys()
    assert len(both) > 2000
    assert all(first[sample] == second[sample] for sample in both)
    first, second = masks(None)
    assert sum(first[sample] == second[sample] for sample in both) < len(both) / 10


def test_pairs_too_long_for_the_phase_are_refused_at_planning(own_shards: Any, special: SpecialIds) -> None:
    with pytest.raises(InputError, match="pairs of up to 32 tokens, the phase's sequence_length is 16"):
        loader(own_shards, special, sequence_length=16)


def test_tensors_have_the_names_and_types_that_the_network_takes(shards: Any, special: SpecialIds) -> None:
    (step,) = steps(loader(shards, special), 1)
    batch = step.micro_batches[0]
    tensors = batch.tensors("cpu")
    assert tensors["longest"] == batch.longest
    types = {name: tensor.dtype for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    int32 = ("tokens_T", "segments_T", "positions_T", "sequence_starts_B1")
    int64 = ("masked_positions_M", "masked_labels_M", "next_labels_B")
    assert types == dict.fromkeys(int32, torch.int32) | dict.fromkeys(int64, torch.int64)
    for name in types:
        tensor = tensors[name]
        assert isinstance(tensor, torch.Tensor)
        assert tensor.tolist() == getattr(batch, name).tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_cuda_are_those_on_cpu(shards: Any, special: SpecialIds) -> None:
    (step,) = steps(loader(shards, special), 1)
    for batch in step.micro_batches:
        here, there = batch.tensors("cpu"), batch.tensors("cuda")
        for name, tensor in here.items():
            other = there[name]
            if isinstance(tensor, torch.Tensor):
                assert isinstance(other, torch.Tensor)
                assert other.is_cuda
                assert torch.equal(other.cpu(), tensor)
                assert other.dtype == tensor.dtype
