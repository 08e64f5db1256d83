"""Each objective's sequences, labels and masks: what they are, and that nobody's part in making them shows."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.bert import BertForPretraining
from model.config import ModelConfig
from pipeline.batches.asking import in_drawn_order, next_tokens
from pipeline.batches.assembly import Assembly
from pipeline.batches.held_out import held_out_micro_batches
from pipeline.batches.loader import StepBatches, TrainLoader
from pipeline.batches.masking import MaskingConfig, mask_keys
from pipeline.batches.microbatch import IGNORED, Buckets, MicroBatch, even_edges, unpack
from pipeline.batches.order import OrderPlan
from pipeline.batches.samples import Samples
from pipeline.batches.sequences import Sequences, blanks, join, lay_out
from pipeline.batches.share import Share
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.batches.text import Text, lay_text, most_sequences
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.shards import Block, read_block
from pipeline.objectives import OBJECTIVES
from workshop.micro_batches import by_all_readers, each_sequence

LENGTH = 32
LANES, GLOBAL, ACROSS = 8, 48, 56  # as in test_loader: the first epoch ends inside step 56
CLS, SEP = 2, 3
NEW = ("mlm+sop", "mlm", "ltr")
TEXTS = ("mlm", "ltr")

# A pair: its tokens, how many of them are A's, whether B is random; None for a lost one.
Pair = tuple[list[int], int, bool] | None


def pairs(longest: int) -> st.SearchStrategy[Pair]:
    """Pairs of up to `longest` tokens; from 1: literal [UNK], [CLS], [SEP] and [MASK] stand in the text, too."""
    tokens = st.lists(st.integers(1, 40), min_size=2, max_size=longest)
    whole = tokens.flatmap(lambda t: st.tuples(st.just(t), st.integers(1, len(t) - 1), st.booleans()))
    return st.one_of(st.none(), whole, whole, whole)


def laid(some: list[Pair], special: SpecialIds, *, epoch: int = 0) -> Sequences:
    lengths = [len(pair[0]) if pair else 0 for pair in some]
    block = Block(
        tokens=np.array([token for pair in some if pair for token in pair[0]], np.uint16),
        offsets=np.cumsum([0, *lengths]),
        a_lengths=np.array([pair[1] if pair else 0 for pair in some], np.uint16),
        random_next=np.array([pair[2] if pair else False for pair in some], np.bool_),
        document_a=np.zeros(len(some), np.uint64),
        document_b=np.zeros(len(some), np.uint64),
    )
    rows = np.arange(len(some))
    samples = Samples(
        blocks=np.zeros(1, np.int64), slot=np.zeros_like(rows), row=rows, sample=rows,
        epoch=np.full(len(some), epoch), unfinished=np.zeros(0, np.int64),
    )  # fmt: skip
    return lay_out([block], samples, special)


def rows(sequences: Sequences) -> list[list[int]]:
    return [sequences.tokens[start:end].tolist() for start, end in pairwise(sequences.starts)]


def running_text(some: list[Pair]) -> list[int]:
    """The tokens of some pairs one after another, separators between what doesn't follow one another."""
    text: list[int] = []
    for pair in filter(None, some):
        tokens, a, random_next = pair
        text += [SEP] * bool(text) + tokens[:a] + [SEP] * random_next + tokens[a:]
    return text


@given(st.data(), st.integers(5, 12), st.integers(1, 5), st.integers(1, 3))
def test_a_text_is_its_pairs_in_order_cut_into_full_sequences(
    special: SpecialIds, data: st.DataObject, length: int, each: int, texts: int
) -> None:
    some = data.draw(st.lists(pairs(length - 3), min_size=each * texts, max_size=each * texts))
    text = lay_text(laid(some, special), each=each, length=length, special=special)
    found = rows(text.sequences)
    for index in range(texts):
        whole = running_text(some[index * each : (index + 1) * each])
        own = [found.pop(0) for _ in range(-(-len(whole) // (length - 2)))]
        assert [token for sequence in own for token in sequence[1:-1]] == whole
        assert all((sequence[0], sequence[-1]) == (CLS, SEP) for sequence in own)
        assert all(len(sequence) == length for sequence in own[:-1])
        assert len(own) <= most_sequences(each, length, length)
    assert found == []
    assert text.lost == some.count(None)
    assert text.sequences.a_ends.tolist() == np.diff(text.sequences.starts).tolist()
    assert set(text.sequences.next_labels.tolist()) <= {IGNORED}


@given(st.data(), st.integers(5, 9), st.integers(1, 6))
def test_where_a_text_sequence_begins_is_its_identity(
    special: SpecialIds, data: st.DataObject, length: int, each: int
) -> None:
    some = data.draw(st.lists(pairs(length - 3), min_size=each, max_size=each))
    text = lay_text(laid(some, special), each=each, length=length, special=special)
    # Each pair's own places, the separator behind it counted.
    stands = {(index, place) for index, pair in enumerate(some) if pair for place in range(len(pair[0]) + 2)}
    found = list(zip(text.sequences.samples.tolist(), text.offsets.tolist(), strict=True))
    assert set(found) <= stands
    assert len(set(found)) == len(found)
    samples = text.sequences.samples
    keys = mask_keys(seed=1, phase=0, epochs=np.zeros_like(samples), samples=samples)
    assert len(set(text.keys(keys).tolist())) == len(found)


def test_two_sequences_of_a_text_can_begin_in_one_pair(special: SpecialIds) -> None:
    # Why a sample alone is no identity: a full pair with a random B, and the separator behind it.
    full: Pair = (list(range(20, 27)), 3, True)
    text: Text = lay_text(laid([full, full], special), each=2, length=10, special=special)
    assert text.sequences.samples.tolist() == [0, 0, 1]
    assert text.offsets.tolist() == [0, 8, 7]


@given(st.integers(1, 40), st.integers(5, 20))
def test_the_bound_on_a_texts_sequences_is_reached_by_full_pairs_with_random_ends(
    special: SpecialIds, count: int, length: int
) -> None:
    full: Pair = ([20] * (length - 3), 1, True)
    text = lay_text(laid([full] * count, special), each=count, length=length, special=special)
    assert len(text.sequences) == most_sequences(count, length, length)


@given(st.data(), st.integers(0, 3))
def test_swapped_pairs_are_b_before_a_and_only_those_that_follow_are_asked(
    special: SpecialIds, data: st.DataObject, epoch: int
) -> None:
    some = data.draw(st.lists(pairs(12), min_size=1, max_size=20))
    before = laid(some, special, epoch=epoch)
    keys = mask_keys(seed=1, phase=0, epochs=before.epochs, samples=before.samples)
    after = in_drawn_order(before, keys)
    assert after.starts.tolist() == before.starts.tolist()
    for index, (pair, found, label) in enumerate(
        zip(some, rows(after), after.next_labels.tolist(), strict=True)
    ):
        if pair is None:
            assert (found, label) == ([CLS, SEP, SEP], IGNORED)
            continue
        tokens, a, random_next = pair
        segments = [tokens[:a], tokens[a:]]
        assert label in ((IGNORED,) if random_next else (0, 1))
        first, second = segments[::-1] if label == 1 else segments
        assert found == [CLS, *first, SEP, *second, SEP]
        assert after.a_ends[index] == len(first) + 2


def test_the_order_is_a_fair_draw_and_another_each_epoch(special: SpecialIds) -> None:
    count = 4000
    some: list[Pair] = [([20, 21], 1, False)] * count
    labels = []
    for seed, epoch in ((1, 0), (1, 1), (2, 0)):
        before = laid(some, special, epoch=epoch)
        keys = mask_keys(seed=seed, phase=0, epochs=before.epochs, samples=before.samples)
        labels.append(in_drawn_order(before, keys).next_labels)
    # Four standard deviations of 4,000 throws of a coin.
    for one in labels:
        assert abs(one.mean() - 0.5) < 4 * 0.5 / count**0.5
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs((labels[one] == labels[other]).mean() - 0.5) < 4 * 0.5 / count**0.5
    # Neighbours don't know of each other.
    assert abs((labels[0][1:] == labels[0][:-1]).mean() - 0.5) < 4 * 0.5 / count**0.5


@given(st.data(), st.integers(5, 12), st.integers(0, 2))
def test_left_to_right_every_token_but_the_last_is_asked_for_the_next(
    special: SpecialIds, data: st.DataObject, length: int, blank: int
) -> None:
    some = data.draw(st.lists(pairs(length - 3), min_size=3, max_size=3))
    text = lay_text(laid(some, special), each=3, length=length, special=special).sequences
    sequences = join([text, blanks(blank, special)], special)
    asked = next_tokens(sequences)
    assert asked.tokens.tolist() == sequences.tokens.tolist()
    found = rows(text)
    assert asked.labels.tolist() == [token for sequence in found for token in sequence[1:]]
    assert asked.tokens[asked.places].tolist() == [token for sequence in found for token in sequence[:-1]]
    assert asked.counts.tolist() == [len(sequence) - 1 for sequence in found] + [0] * blank


@given(st.integers(0, 200), st.integers(1, 20))
def test_sequences_are_dealt_as_equally_as_can_be(sequences: int, parts: int) -> None:
    dealt = np.diff(even_edges(sequences, parts))
    assert dealt.sum() == sequences
    assert dealt.max() - dealt.min() <= 1


@pytest.fixture(scope="module")
def shards(make_shards: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    folder = tmp_path_factory.mktemp("shards")
    return str(folder), make_shards(folder, train=(1, 2610, 90), validation=(270, 40), longest=LENGTH)


def loader(shards: tuple[str, Manifest], special: SpecialIds, name: str, **more: Any) -> TrainLoader:
    given: dict[str, Any] = {"seed": 1, "phase": 0, "lanes": LANES, "global_batch": GLOBAL, "micro_batch": 6}
    given |= {"sequence_length": LENGTH, "masking": MaskingConfig(), "objective": OBJECTIVES[name]}
    return TrainLoader(
        sources=[Source(folder=shards[0], manifest=shards[1])], special=special, **(given | more)
    )


def steps(made: TrainLoader, count: int) -> list[StepBatches]:
    with made:
        return list(islice(made, count))


def contents(batches: list[MicroBatch]) -> Counter[Any]:
    """What stands in some micro-batches; two sequences of a text may begin in one pair."""
    return Counter(sequence for batch in batches for sequence in each_sequence(batch))


@given(
    st.sampled_from(NEW),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 3, 6]),
    st.integers(1, 4),
    st.sampled_from([0, 1, 55, ACROSS, 57, 10_000_000]),
    st.sampled_from([LENGTH, 100]),
)
def test_a_step_is_the_same_whatever_ranks_micro_batches_workers_and_restarts(
    shards: Any, special: SpecialIds, name: str, world_size: int, micro_batch: int, workers: int, step: int, length: int
) -> None:  # fmt: skip
    more = {"start_step": step, "sequence_length": length}
    (alone,) = steps(loader(shards, special, name, micro_batch=GLOBAL, **more), 1)
    found = []
    for rank in range(world_size):
        share = {"rank": rank, "world_size": world_size, "micro_batch": micro_batch, "workers": workers}
        made = loader(shards, special, name, **more, **share)
        own = by_all_readers(made, step)
        # Ranks stay in step, and a worker deals what it has equally.
        assert [batch.micro_step for batch in own] == list(range(GLOBAL // (world_size * micro_batch)))
        for reader in range(made.share.readers):
            dealt = [own[number].sequences for number in made.share.micro_steps_of(reader)]
            assert max(dealt) - min(dealt) <= 1
            assert max(dealt) <= made._assembly.most_sequences
        found += own
    assert contents(found) == contents(list(alone.micro_batches))
    assert sum(batch.masked for batch in found) == alone.masked
    assert sum(batch.sequences for batch in found) == alone.sequences
    assert sum(batch.tokens for batch in found) == alone.tokens


@pytest.mark.parametrize("name", NEW)
def test_ranks_and_accumulation_give_the_same_gradient(shards: Any, special: SpecialIds, name: str) -> None:
    objective = OBJECTIVES[name]
    torch.manual_seed(1)
    config = ModelConfig(
        vocab_size=1000, hidden_size=16, layers=1, heads=2, intermediate_size=16, max_positions=100,
        hidden_dropout=0.0, attention_dropout=0.0, pair_head=objective.pair_label is not None, causal=objective.causal,
    )  # fmt: skip
    network = BertForPretraining(config)

    def gradient(world_size: int, micro_batch: int) -> dict[str, torch.Tensor]:
        network.zero_grad()
        own = [
            steps(
                # Long sequences: fewer of them than micro-batches, so some count nowhere.
                loader(shards, special, name, micro_batch=micro_batch, rank=rank, world_size=world_size,
                       sequence_length=100), 1,
            )[0]
            for rank in range(world_size)
        ]  # fmt: skip
        masked, labelled = sum(step.masked for step in own), sum(step.labelled for step in own)
        for batch in (batch for step in own for batch in step.micro_batches):
            sums = network(**batch.tensors())
            (sums.mlm_sum / masked + sums.nsp_sum / max(1, labelled)).backward()
        return {each: p.grad.clone() for each, p in network.named_parameters() if p.grad is not None}

    whole = gradient(1, GLOBAL)
    assert len(whole) == len(list(network.parameters()))
    # A key's bias has a true gradient of 0, and what is found is rounding: measured on the scale of the others.
    tolerance = {"rtol": 1e-5, "atol": 1e-6 * max(float(tensor.abs().max()) for tensor in whole.values())}
    for world_size, micro_batch in ((1, 1), (2, 3), (8, 6)):
        found = gradient(world_size, micro_batch)
        for each, tensor in whole.items():
            torch.testing.assert_close(found[each], tensor, **tolerance)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("step", [0, ACROSS])
def test_a_lanes_part_of_a_step_is_one_text(shards: Any, special: SpecialIds, name: str, step: int) -> None:
    folder, manifest = shards
    blocks = [
        read_block(folder, shard, index)
        for shard in manifest.of_split("train")
        for index in range(len(shard.block_pairs))
    ]
    made = loader(shards, special, name, start_step=step)
    expected: list[list[int]] = []
    for lane in range(LANES):
        samples = made.plan.locate(lane, step * made.plan.per_lane, (step + 1) * made.plan.per_lane)
        some: list[Pair] = []
        for number, row in zip(samples.block.tolist(), samples.row.tolist(), strict=True):
            block = blocks[number]
            tokens = block.tokens[block.offsets[row] : block.offsets[row + 1]].tolist()
            some.append((tokens, int(block.a_lengths[row]), bool(block.random_next[row])))
        text = running_text(some)
        room = LENGTH - 2
        expected += [[CLS, *text[at : at + room], SEP] for at in range(0, len(text), room)]
    (batches,) = steps(made, 1)
    found = []
    for batch in batches.micro_batches:
        counted = batch.masked_labels_M != IGNORED
        whole = batch.tokens_T.copy()
        if name == "mlm":
            whole[batch.masked_positions_M[counted]] = batch.masked_labels_M[counted]
            assert 0.1 < batch.masked / batch.tokens < 0.2
        else:
            np.testing.assert_array_equal(
                whole[batch.masked_positions_M[counted] + 1], batch.masked_labels_M[counted]
            )
            assert batch.masked == batch.tokens - batch.sequences
        assert not batch.segments_T.any()
        assert batch.labelled == 0
        found += [whole[start:end].tolist() for start, end in pairwise(batch.sequence_starts_B1)]
    assert found == expected


class OnePair:
    """A source whose blocks all hold the same pair over and over."""

    def __init__(self, tokens: int, random_next: bool) -> None:
        self.block = Block(
            tokens=np.full(1024 * tokens, 30, np.uint16), offsets=np.arange(1025) * tokens,
            a_lengths=np.ones(1024, np.uint16), random_next=np.full(1024, random_next),
            document_a=np.zeros(1024, np.uint64), document_b=np.ones(1024, np.uint64),
        )  # fmt: skip

    def request(self, numbers: Iterable[int]) -> None:
        pass

    def read(self, number: int) -> Block:
        return self.block

    def close(self) -> None:
        pass


@given(
    st.sampled_from(TEXTS),
    st.integers(5, 40),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 3, 12, 24]),
    st.sampled_from([1, 8, 64]),
    st.booleans(),
)
def test_no_text_is_too_large_for_the_slots_of_a_loader(
    special: SpecialIds, name: str, length: int, lanes: int, workers: int, micro_batch: int, bucket: int, fits: bool
) -> None:  # fmt: skip
    # The most that pairs can be: full, with a random B each.
    plan = OrderPlan(block_pairs=[1024], seed=1, phase=0, lanes=lanes, global_batch=24)
    assembly = Assembly(
        folders=(), share=Share(plan=plan, rank=0, world_size=1, micro_batch=micro_batch, workers=workers),
        masking=MaskingConfig(rate=1.0), special=special, sequence_length=length, objective=OBJECTIVES[name],
        buckets=Buckets(tokens=bucket, masked=bucket), stop_step=2,
    )  # fmt: skip
    for reader in range(assembly.share.readers):
        source: Any = OnePair(length - 3 if fits else 2, random_next=True)
        for chunk in assembly.chunks(reader, source):
            assert len(chunk) <= assembly.largest_chunk
            for batch in unpack(chunk):
                assert batch.sequences <= assembly.most_sequences


def test_workers_hand_over_what_is_made_in_process(shards: Any, special: SpecialIds) -> None:
    made = loader(shards, special, "ltr", micro_batch=3, workers=2, start_step=50)
    assert made.share.readers == 2
    for step in steps(made, 8):
        expected = by_all_readers(
            loader(shards, special, "ltr", micro_batch=3, workers=2, start_step=step.step), step.step
        )
        for one, other in zip(step.micro_batches, expected, strict=True):
            assert {n: a.tobytes() for n, a in one.arrays().items()} == {
                n: a.tobytes() for n, a in other.arrays().items()
            }


@pytest.mark.parametrize("name", NEW)
def test_damage_that_is_skipped_is_counted_and_costs_no_other_lane(
    make_shards: Any, special: SpecialIds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shards = str(tmp_path), make_shards(tmp_path, train=(300, 300), longest=LENGTH)
    whole = steps(loader(shards, special, name, damage="skip"), 24)
    (tmp_path / "train-00001.tar").unlink()
    # A micro-batch a chunk, which changes nothing either.
    monkeypatch.setattr("pipeline.batches.assembly._CHUNK_TOKENS", 256)
    assert loader(shards, special, name)._assembly.chunks_a_step == GLOBAL // 6
    left = steps(loader(shards, special, name, damage="skip"), 24)
    plan = loader(shards, special, name).plan
    for before, after in zip(whole, left, strict=True):
        lost, untouched = 0, set()
        for lane in range(LANES):
            samples = plan.locate(lane, before.step * plan.per_lane, (before.step + 1) * plan.per_lane)
            lost += int((samples.sample >= 300).sum())
            if (samples.sample < 300).all():
                untouched |= set(zip(samples.epoch.tolist(), samples.sample.tolist(), strict=True))
        assert (before.lost, after.lost) == (0, lost)
        assert len(before.micro_batches) == len(after.micro_batches)
        found = [contents(list(each.micro_batches)) for each in (before, after)]
        intact = [Counter({s: n for s, n in each.items() if s[0] in untouched}) for each in found]
        assert intact[0] == intact[1]
        if OBJECTIVES[name].layout == "text":
            # What is lost leaves no blank behind.
            assert all(s[0][1] < 300 for s in found[1])
        assert after.masked == sum(int((b.masked_labels_M != IGNORED).sum()) for b in after.micro_batches)
    assert sum(step.lost for step in left) > 100


def test_a_step_that_has_lost_everything_still_has_its_micro_batches(
    make_shards: Any, special: SpecialIds, tmp_path: Path
) -> None:
    shards = str(tmp_path), make_shards(tmp_path, train=(300,), longest=LENGTH)
    (tmp_path / "train-00000.tar").unlink()
    for name in TEXTS:
        (step,) = steps(loader(shards, special, name, damage="skip"), 1)
        assert (step.lost, step.sequences, step.tokens, step.masked) == (GLOBAL, 0, 0, 0)
        assert len(step.micro_batches) == GLOBAL // 6
        assert all(len(batch.lengths) == 0 for batch in step.micro_batches)


def held_out(shards: Any, special: SpecialIds, name: str, **more: Any) -> list[MicroBatch]:
    given: dict[str, Any] = {"sequences": 277, "micro_batch": 8, "masking": MaskingConfig(), "seed": 1}
    given |= {"special": special, "objective": OBJECTIVES[name]} | more
    return list(held_out_micro_batches(*shards, **given))


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("length", [None, 20, 80])
def test_held_out_sequences_are_the_same_whatever_ranks_and_micro_batches(
    shards: Any, special: SpecialIds, name: str, length: int | None
) -> None:
    alone = held_out(shards, special, name, text_length=length)
    text = OBJECTIVES[name].layout == "text"
    if text:
        # Two texts: nearly all sequences are full.
        lengths = np.concatenate([batch.lengths for batch in alone])
        assert (lengths == (length or LENGTH)).sum() == len(lengths) - 2
    else:
        assert sum(batch.sequences for batch in alone) == 277
    for world_size in (1, 2, 3):
        for micro_batch in (1, 8, 100):
            ranks = [
                held_out(
                    shards, special, name, text_length=length, micro_batch=micro_batch, rank=rank,
                    world_size=world_size,
                )
                for rank in range(world_size)
            ]  # fmt: skip
            assert len({len(batches) for batches in ranks}) == 1, "ranks call the network unequally often"
            together = [batch for batches in ranks for batch in batches]
            assert len({batch.micro_step for batch in together}) == len(together)
            assert contents(together) == contents(alone)
            assert max(batch.sequences for batch in together) <= micro_batch


def test_static_masks_keep_a_pairs_order_too(shards: Any, special: SpecialIds) -> None:
    found: list[dict[int, Any]] = [{}, {}]
    made = loader(shards, special, "mlm+sop", masking=MaskingConfig(epochs=1))
    for step in steps(made, 2 * ACROSS):
        for (epoch, sample), content in (s for batch in step.micro_batches for s in each_sequence(batch)):
            if epoch < 2:
                found[epoch][sample] = content
    both = found[0].keys() & found[1].keys()
    assert len(both) > 2000
    assert all(found[0][sample] == found[1][sample] for sample in both)
