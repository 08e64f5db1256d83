"""Law 3 over any sequence of world sizes: what a step holds is the same for whoever takes it up, and at no cost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.batches import order
from pipeline.batches.loader import TrainLoader
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds

LENGTH, LANES, GLOBAL = 24, 16, 48
# An epoch of 61 steps; one tar of a single pair beside one of 2,600.
TRAIN = (1, 2600, 333)


@pytest.fixture(scope="module", params=["one source", "mixture"])
def sources(request: Any, make_shards: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    def made(number: int, weight: float) -> Source:
        folder = tmp_path_factory.mktemp("source")
        manifest = make_shards(folder, train=TRAIN, longest=LENGTH, seed=number)
        return Source(folder=str(folder), manifest=manifest, weight=weight)

    return [made(0, 2.0)] if request.param == "one source" else [made(0, 2.0), made(1, 1.0)]


def steps_by(
    sources: list[Source], special: SpecialIds, ranks: int, micro_batch: int, steps: range
) -> list[Any]:
    """What `ranks` ranks together take in each of `steps`: every sequence with its mask, in no order."""
    found: list[list[Any]] = [[] for _ in steps]
    for rank in range(ranks):
        with TrainLoader(
            sources=sources, seed=1, phase=0, lanes=LANES, global_batch=GLOBAL, micro_batch=micro_batch,
            sequence_length=LENGTH, masking=MaskingConfig(rate=0.4, final_rate=0.1), special=special, rank=rank,
            world_size=ranks, start_step=steps.start, stop_step=steps.stop, steps=200,
        ) as loader:  # fmt: skip
            for sequences, step in zip(found, loader, strict=True):
                for batch in step.micro_batches:
                    for row in range(batch.sequences):
                        first, last = batch.sequence_starts_B1[row : row + 2]
                        here = (batch.masked_positions_M >= first) & (batch.masked_positions_M < last)
                        here &= batch.masked_labels_M >= 0
                        sequences.append(
                            (
                                int(batch.epochs_B[row]),
                                int(batch.samples_B[row]),
                                batch.tokens_T[first:last].tobytes(),
                                batch.masked_labels_M[here].tobytes(),
                                int(batch.next_labels_B[row]),
                            )
                        )
    return [sorted(sequences) for sequences in found]


def test_8_then_2_then_4_ranks_see_what_4_see(sources: list[Source], special: SpecialIds) -> None:
    alone = steps_by(sources, special, 4, 12, range(70))
    assert all(len(step) == GLOBAL for step in alone)
    in_turn = [
        *steps_by(sources, special, 8, 6, range(0, 23)),
        *steps_by(sources, special, 2, 3, range(23, 64)),
        *steps_by(sources, special, 4, 12, range(64, 70)),
    ]
    assert in_turn == alone


@settings(max_examples=12)
@given(st.data())
def test_any_ranks_take_over_from_any_at_any_step(
    sources: list[Source], special: SpecialIds, data: st.DataObject
) -> None:
    first = data.draw(st.sampled_from([0, 55, 10_000_000]))
    cuts = sorted(data.draw(st.lists(st.integers(0, 12), max_size=3)))
    expected = steps_by(sources, special, 1, GLOBAL, range(first, first + 12))
    found: list[Any] = []
    for begin, end in zip([0, *cuts], [*cuts, 12], strict=True):
        ranks = data.draw(st.sampled_from([1, 2, 4, 8, 16]))
        micro_batch = data.draw(st.sampled_from([n for n in (1, 3, 6, 12, 24) if GLOBAL // ranks % n == 0]))
        found += steps_by(sources, special, ranks, micro_batch, range(first + begin, first + end))
    assert found == expected


def test_taking_up_a_run_costs_the_same_however_far_it_is(
    sources: list[Source], special: SpecialIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    real = order.permutation

    def counted(draw_key: int, size: int) -> Any:
        numbers.append(size)
        return real(draw_key, size)

    monkeypatch.setattr(order, "permutation", counted)
    work = []
    for step in (1_000, 10_000_000, 10**12):
        numbers.clear()
        steps_by(sources, special, 2, 24, range(step, step + 1))
        work.append((len(numbers), sum(numbers)))
    # Where the step lies near an epoch's end, one more is laid out.
    assert max(count for count, _ in work) <= min(count for count, _ in work) + 4 * len(sources), work
    assert max(size for _, size in work) <= 1.5 * min(size for _, size in work), work


def test_shards_of_a_single_pair_and_of_hundred_thousand_give_an_epoch_of_each_pair_once(
    make_shards: Any, special: SpecialIds, tmp_path: Path
) -> None:
    manifest = make_shards(tmp_path, train=(1, 100_000, 1), longest=8)
    source = Source(folder=str(tmp_path), manifest=manifest)
    seen: list[Any] = []
    taken = []
    for rank in range(4):
        with TrainLoader(
            sources=[source], seed=1, phase=0, lanes=64, global_batch=1024, micro_batch=256, sequence_length=8,
            masking=MaskingConfig(), special=special, rank=rank, world_size=4, stop_step=97,
        ) as loader:  # fmt: skip
            batches = [batch for step in loader for batch in step.micro_batches]
        taken.append(len(batches))
        seen += [batch.samples_B for batch in batches]
    assert taken == [97] * 4
    samples = np.concatenate(seen)
    assert len(np.unique(samples)) == len(samples) == 97 * 1024
    assert samples.max() <= 100_001
