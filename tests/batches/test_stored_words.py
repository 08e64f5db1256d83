"""Words that the shards know, down to the masks of micro-batches; and masks without them, which stay as they are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches.asking import in_drawn_order
from pipeline.batches.held_out import held_out_micro_batches
from pipeline.batches.loader import TrainLoader
from pipeline.batches.masking import MaskingConfig, mask_keys, mask_tokens
from pipeline.batches.microbatch import IGNORED, MicroBatch
from pipeline.batches.samples import Samples
from pipeline.batches.sequences import blanks, join, lay_out
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.batches.text import lay_text
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.shards import Block, read_blocks

LENGTH, GLOBAL = 32, 48
Shards = tuple[str, Manifest]


@pytest.fixture(scope="module")
def known(make_shards: Any, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("known")
    return str(folder), make_shards(folder, train=(300, 2000), validation=(70,), longest=LENGTH, words=True)


@pytest.fixture(scope="module")
def unknown(make_shards: Any, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """The same pairs; only that nothing is known of their words."""
    folder = tmp_path_factory.mktemp("unknown")
    return str(folder), make_shards(folder, train=(300, 2000), validation=(70,), longest=LENGTH)


def micro_batches(
    *shards: Shards, special: SpecialIds, masking: MaskingConfig, **more: Any
) -> list[MicroBatch]:
    sources = [Source(folder=folder, manifest=manifest) for folder, manifest in shards]
    settings: dict[str, Any] = {"seed": 1, "phase": 0, "lanes": 8, "global_batch": GLOBAL, "micro_batch": 12}
    settings |= {"sequence_length": LENGTH, "special": special, "masking": masking} | more
    with TrainLoader(sources=sources, **settings) as loader:
        # Steps 40 to 56: the first epoch of 2,300 pairs ends in step 47, and windows end inside steps.
        return [batch for _, step in zip(range(17), loader, strict=False) for batch in step.micro_batches]


def pairs_of(shards: Shards, split: Any) -> list[tuple[Block, int]]:
    return [
        (block, row)
        for shard in shards[1].of_split(split)
        for block in read_blocks(shards[0], shard)
        for row in range(len(block))
    ]


def check(
    batches: list[MicroBatch], pairs: list[tuple[Block, int]], config: MaskingConfig, **key: Any
) -> int:
    """Each sequence's mask is that of its own pair, laid out and masked by itself with the words of its block.

    Of lost pairs there is none to check; returns how many were checked.
    """
    special, checked = key.pop("special"), 0
    for batch in batches:
        for row, (epoch, sample) in enumerate(zip(batch.epochs_B, batch.samples_B, strict=True)):
            first, last = batch.sequence_starts_B1[row : row + 2]
            if last - first == 3:
                continue
            block, pair = pairs[sample]
            tokens, a = block.tokens[slice(*block.offsets[pair : pair + 2])], int(block.a_lengths[pair])
            if block.continues is None:
                flags = special.is_continuing[tokens]
            else:
                flags = block.continues[slice(*block.offsets[pair : pair + 2])]
            laid = np.concatenate([[2], tokens[:a], [3], tokens[a:], [3]]).astype(np.uint16)
            words = np.concatenate([[0], flags[:a], [0], flags[a:], [0]]).astype(np.bool_)
            keys = mask_keys(epochs=np.array([epoch]), samples=np.array([sample]), **key)
            alone = mask_tokens(
                laid, np.array([0, len(laid)]), keys, config, special, LENGTH, continues=words
            )
            assert batch.tokens_T[first:last].tolist() == alone.tokens.tolist()
            places = batch.masked_positions_M[batch.masked_labels_M != IGNORED]
            here = places[(places >= first) & (places < last)] - first
            assert here.tolist() == alone.places.tolist()
            checked += 1
    return checked


@pytest.mark.parametrize("strategy", ["whole_word", "span"])
def test_masks_go_by_the_words_that_the_shards_know(
    known: Shards, special: SpecialIds, strategy: str
) -> None:
    config = MaskingConfig(strategy=strategy, rate=0.3)
    found = micro_batches(known, special=special, masking=config, start_step=40)
    assert len({int(epoch) for batch in found for epoch in batch.epochs_B}) == 2
    check(found, pairs_of(known, "train"), config, special=special, seed=1, phase=0)
    by_rank = [
        batch
        for rank in (0, 1)
        for batch in micro_batches(
            known, special=special, masking=config, start_step=40, rank=rank, world_size=2, micro_batch=24
        )
    ]
    check(by_rank, pairs_of(known, "train"), config, special=special, seed=1, phase=0)


def test_folders_with_words_of_their_own_stand_beside_others_without(
    known: Shards, unknown: Shards, special: SpecialIds
) -> None:
    special = replace(special, continuing_ids=tuple(range(500, 900, 3)))
    config = MaskingConfig(strategy="whole_word", rate=0.3)
    pairs = pairs_of(known, "train") + pairs_of(unknown, "train")
    found = micro_batches(known, unknown, special=special, masking=config)
    assert check(found, pairs, config, special=special, seed=1, phase=0) == 17 * GLOBAL
    without = np.concatenate([batch.samples_B for batch in found]) >= len(pairs) // 2
    assert 0.4 < without.mean() < 0.6


def test_held_out_masks_go_by_them_too(known: Shards, unknown: Shards, special: SpecialIds) -> None:
    config = MaskingConfig(strategy="whole_word", rate=0.3)

    def masks(shards: Shards) -> list[Any]:
        made = held_out_micro_batches(
            *shards, sequences=70, micro_batch=16, masking=config, special=special, seed=1
        )
        return [(batch.samples_B.tolist(), batch.masked_positions_M.tolist(), batch) for batch in made]

    with_words, without = masks(known), masks(unknown)
    assert [each[0] for each in with_words] == [each[0] for each in without]
    assert [each[1] for each in with_words] != [each[1] for each in without]
    pairs = pairs_of(known, "validation")
    torn = 0
    for samples, _, batch in with_words:
        hidden = np.zeros(len(batch.tokens_T), np.bool_)
        hidden[batch.masked_positions_M[batch.masked_labels_M != IGNORED]] = True
        for row, sample in enumerate(samples):
            block, pair = pairs[sample]
            first, a = int(batch.sequence_starts_B1[row]), int(block.a_lengths[pair])
            assert block.continues is not None
            tokens, flags = (
                column[slice(*block.offsets[pair : pair + 2])] for column in (block.tokens, block.continues)
            )
            for place in range(1, len(tokens)):
                ordinary = not special.is_special[tokens[place - 1 : place + 1]].any()
                if flags[place] and ordinary:
                    at = first + 1 + place + (place >= a)
                    torn += hidden[at] != hidden[at - 1]
    assert torn == 0


@pytest.mark.parametrize("strategy", ["token", "whole_word", "span"])
def test_without_stored_words_the_vocabularys_pieces_say_what_continues(
    special: SpecialIds, strategy: str
) -> None:
    rng = np.random.default_rng(5)
    pieces = SpecialIds(
        size=special.size, pad_id=0, cls_id=2, sep_id=3, mask_id=4,
        special_ids=special.special_ids, continuing_ids=tuple(range(20, special.size, 3)),
    )  # fmt: skip
    starts = np.arange(0, 6001, 60)
    tokens = rng.integers(0, special.size, starts[-1]).astype(np.uint16)
    keys = mask_keys(seed=1, phase=0, epochs=np.zeros(100, np.int64), samples=np.arange(100))
    config = MaskingConfig(strategy=strategy)
    one = mask_tokens(tokens, starts, keys, config, pieces, 60)
    other = mask_tokens(tokens, starts, keys, config, pieces, 60, continues=pieces.is_continuing[tokens])
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.places.tolist() == other.places.tolist()


@pytest.mark.parametrize("lost", ["one", "all"])
def test_lost_blocks_have_no_words_and_take_none_from_others(
    make_shards: Any, tmp_path: Path, special: SpecialIds, lost: str
) -> None:
    shards = str(tmp_path), make_shards(tmp_path, train=(300, 300), validation=(), longest=LENGTH, words=True)
    pairs = pairs_of(shards, "train")
    config = MaskingConfig(strategy="whole_word", rate=0.3)
    for name in ("train-00001.tar", "train-00000.tar")[: 1 + (lost == "all")]:
        (tmp_path / name).write_bytes(b"")
    found = micro_batches(shards, special=special, masking=config, damage="skip")
    samples = np.concatenate([batch.samples_B for batch in found])
    kept = (samples < 300) & (lost == "one")
    assert sum(batch.lost for batch in found) == (~kept).sum() > 0
    assert check(found, pairs, config, special=special, seed=1, phase=0) == kept.sum()


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 5))
def test_words_go_where_their_tokens_go(special: SpecialIds, pairs: int, each: int, seed: int) -> None:
    """Swapped segments and running text: here every odd token continues a word, wherever it stands."""
    rng = np.random.default_rng(seed)
    count = pairs * each
    lengths = rng.integers(2, 12, count)
    tokens = rng.integers(100, 900, lengths.sum()).astype(np.uint16)
    block = Block(
        tokens=tokens, offsets=np.concatenate([[0], np.cumsum(lengths)]),
        a_lengths=rng.integers(1, lengths).astype(np.uint16), random_next=rng.random(count) < 0.4,
        document_a=np.zeros(count, np.uint64), document_b=np.zeros(count, np.uint64), continues=tokens % 2 == 1,
    )  # fmt: skip
    rows = np.arange(count)
    samples = Samples(
        blocks=np.zeros(1, np.int64), slot=np.zeros_like(rows), row=rows, sample=rows,
        epoch=np.zeros_like(rows), unfinished=np.zeros(0, np.int64),
    )  # fmt: skip
    laid = lay_out([block], samples, special)
    swapped = in_drawn_order(laid, rng.integers(0, 1 << 63, count).astype(np.uint64))
    text = lay_text(laid, each=each, length=9, special=special).sequences
    filled = join([text, blanks(2, special)], special)
    for made in (laid, swapped, text, filled):
        assert made.continues is not None
        assert made.continues.tolist() == ((made.tokens % 2 == 1) & (made.tokens >= 100)).tolist()
