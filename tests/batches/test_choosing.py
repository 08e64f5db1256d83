"""Whole words and spans, held against the published algorithms written out plainly."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches.choosing import Chosen, choose_tokens, choose_words
from pipeline.batches.masking import STRATEGIES, MaskingConfig, mask_keys, mask_tokens
from pipeline.batches.spans import choose_spans
from pipeline.batches.special_ids import SpecialIds
from pipeline.configuration import build
from pipeline.corpus.vocabulary import Vocabulary
from pipeline.counter_random import key

# [CLS] 2, [SEP] 3, [MASK] 4; odd ids above 20 begin a word, even ones continue it.
SPECIAL = SpecialIds(
    size=400, pad_id=0, cls_id=2, sep_id=3, mask_id=4,
    special_ids=tuple(range(20)), continuing_ids=tuple(range(20, 400, 2)),
)  # fmt: skip
GOLDEN, MASK64 = 0x9E3779B97F4A7C15, (1 << 64) - 1
P, LONGEST = 0.2, 10

ids = st.one_of(st.integers(20, 399), st.integers(20, 399), st.integers(0, 19))
texts = st.lists(st.lists(ids, min_size=1, max_size=60), min_size=1, max_size=12)


def laid(rows: list[list[int]]) -> tuple[Any, Any]:
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return np.concatenate(rows).astype(np.uint16), starts


Flags = list[bool] | None


def words_of(row: list[int], flags: Flags = None) -> list[list[int]]:
    """The places of each word that may be hidden; flags: which tokens continue a word, else the vocabulary says."""
    words: list[list[int]] = []
    for place, token in enumerate(row):
        if token < 20:
            continue
        continues = token % 2 == 0 if flags is None else flags[place]
        if continues and place and row[place - 1] >= 20:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def draw(row_key: int, purpose: int, place: int) -> int:
    """64 bits, of which the upper half is the splitmix64 stream's of this purpose."""
    word = (row_key ^ key(int.from_bytes(b"mask"), purpose)) + (place + 1) * GOLDEN & MASK64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ word >> shift) * factor & MASK64
    return word


def order(count: int, wanted: int, row_key: int) -> list[int]:
    """The numbers below `count` in random order: some that are drawn, then the others shuffled."""
    drawn = [(draw(row_key, 0, rank) >> 32) * count >> 32 for rank in range(wanted + wanted // 2 + 8)]
    rest = sorted(range(count), key=lambda number: (draw(row_key, 4, number) >> 16, number))
    return list(dict.fromkeys([*drawn, *rest])) if count else []


def published_words(row: list[int], wanted: int, row_key: int, flags: Flags = None) -> dict[int, int]:
    """create_masked_lm_predictions: place → the place whose draw decides."""
    words, chosen = words_of(row, flags), []
    for number in order(len(words), wanted, row_key):
        if len(chosen) + len(words[number]) <= wanted:
            chosen += words[number]
    return {place: place for place in chosen}


def published_tokens(row: list[int], wanted: int, row_key: int) -> dict[int, int]:
    ordinary = [place for place in order(len(row), wanted, row_key) if row[place] >= 20]
    return {place: place for place in ordinary[:wanted]}


def published_spans(row: list[int], wanted: int, row_key: int, flags: Flags = None) -> dict[int, int]:
    """SpanBERT's PairWithSpanMaskingScheme: words from an anchor on, cut where the number is reached."""
    words, chosen = words_of(row, flags), {}
    shares = P * (1 - P) ** np.arange(LONGEST)
    # Lengths are drawn to 2^-16.
    bounds = np.cumsum(shares / shares.sum())
    for anchor in order(len(words), wanted, row_key):
        first = words[anchor][0]
        if first in chosen:
            continue
        drawn = ((draw(row_key, 3, first) >> 48) + 0.5) / (1 << 16)
        length = 1 + sum(bound <= drawn for bound in bounds[:-1])
        places = list(words[anchor])
        for word in words[anchor + 1 : anchor + length]:
            if word[0] != places[-1] + 1:
                break
            places += word
        for place in places:
            if len(chosen) < wanted and place not in chosen:
                chosen[place] = first
    return chosen


def of_row(chosen: Chosen, index: int) -> dict[int, int]:
    those = chosen.rows == index
    return dict(zip(chosen.places[those].tolist(), chosen.deciders[those].tolist(), strict=True))


@given(texts, st.integers(0, 1 << 62), st.booleans(), st.data())
def test_words_and_spans_are_those_of_the_published_algorithms(
    rows: list[list[int]], seed: int, stored: bool, data: Any
) -> None:
    tokens, starts = laid(rows)
    keys = mask_keys(seed=seed, phase=0, epochs=np.zeros(len(rows), np.int64), samples=np.arange(len(rows)))
    wanted = np.array([data.draw(st.integers(0, len(row))) for row in rows])
    of_rows: list[Flags] = [None] * len(rows)
    continues = None
    if (
        stored
    ):  # the shards know the words; what a row begins with, and special tokens, may be flagged as well
        of_rows = [data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row))) for row in rows]
        continues = np.concatenate(of_rows)
    alone = choose_tokens(tokens, starts, wanted, keys, SPECIAL)
    words = choose_words(tokens, starts, wanted, keys, SPECIAL, continues)
    spans = choose_spans(tokens, starts, wanted, keys, SPECIAL, continues, p=P, longest=LONGEST)
    for index, (row, flags) in enumerate(zip(rows, of_rows, strict=True)):
        row_key = int(keys[index])
        assert of_row(alone, index) == published_tokens(row, wanted[index], row_key)
        assert of_row(words, index) == published_words(row, wanted[index], row_key, flags)
        assert of_row(spans, index) == published_spans(row, wanted[index], row_key, flags)


@given(texts, st.integers(0, 1000), st.floats(0.05, 1.0))
def test_counts_are_exact_wherever_they_can_be(rows: list[list[int]], seed: int, rate: float) -> None:
    tokens, starts = laid(rows)
    keys = mask_keys(seed=seed, phase=0, epochs=np.zeros(len(rows), np.int64), samples=np.arange(len(rows)))
    for strategy in ("whole_word", "span"):
        config = MaskingConfig(strategy=strategy, rate=rate)
        masked = mask_tokens(tokens, starts, keys, config, SPECIAL, 60)
        wanted = config.predictions(np.diff(starts), 60, rate)
        assert np.array_equal(masked.counts + masked.short, wanted)
        for index, row in enumerate(rows):
            candidates = [len(word) for word in words_of(row)]
            if strategy == "span":
                assert masked.counts[index] == min(wanted[index], sum(candidates))
            elif masked.short[index]:
                hidden = set((masked.places - starts[index]).tolist())
                left = [len(word) for word in words_of(row) if word[0] not in hidden]
                assert min(left, default=99) > masked.short[index]
        # A word is hidden whole or not at all.
        if strategy == "whole_word":
            hidden = set(masked.places.tolist())
            for index, row in enumerate(rows):
                for word in words_of(row):
                    assert len({starts[index] + place in hidden for place in word}) == 1


def test_the_pieces_of_a_vocabulary_continue_words() -> None:
    tokens = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##", "#", "a##b", "##s")
    special = SpecialIds.of(Vocabulary(tokens=tokens, cased=False))
    continuing = [token for token, continues in zip(tokens, special.is_continuing, strict=True) if continues]
    assert continuing == ["##ing", "##s"]


def test_without_pieces_whole_words_are_tokens() -> None:
    rng = np.random.default_rng(0)
    tokens = (rng.integers(10, 199, 4000) * 2 + 1).astype(np.uint16)
    starts = np.arange(0, 4001, 100)
    keys = mask_keys(seed=1, phase=0, epochs=np.zeros(40, np.int64), samples=np.arange(40))
    wanted = np.full(40, 15)
    ours, theirs = (choose(tokens, starts, wanted, keys, SPECIAL) for choose in (choose_words, choose_tokens))
    assert np.array_equal(ours.rows, theirs.rows)
    assert np.array_equal(ours.places, theirs.places)


@pytest.mark.parametrize("rate", [0.15, 0.9])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_many_rows_at_once_and_each_alone_agree(strategy: str, rate: float) -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 90, 300)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(0, 400, starts[-1]).astype(np.uint16)
    keys = mask_keys(seed=1, phase=0, epochs=np.zeros(300, np.int64), samples=np.arange(300))
    config = MaskingConfig(strategy=strategy, rate=rate)
    whole = mask_tokens(tokens, starts, keys, config, SPECIAL, 90)
    assert whole.counts.sum() == len(whole.places)
    for row in range(300):
        first, last = starts[row : row + 2]
        alone = mask_tokens(
            tokens[first:last], np.array([0, last - first]), keys[row : row + 1], config, SPECIAL, 90
        )
        assert alone.tokens.tolist() == whole.tokens[first:last].tolist()
        assert (alone.counts[0], alone.short[0]) == (whole.counts[row], whole.short[row])


def test_any_order_is_equally_likely() -> None:
    """Of five words two, of a drawn order's beginning and of a shuffled end: each pair in a tenth of the rows."""
    count = 40_000
    tokens, starts = np.full(count * 5, 21, np.uint16), np.arange(0, count * 5 + 1, 5)
    keys = mask_keys(seed=1, phase=0, epochs=np.zeros(count, np.int64), samples=np.arange(count))
    for wanted, choose in ((2, choose_tokens), (2, choose_words), (3, choose_words)):
        chosen = choose(tokens, starts, np.full(count, wanted), keys, SPECIAL)
        pairs = Counter(map(tuple, chosen.places.reshape(count, wanted).tolist()))
        assert len(pairs) == 10
        distance = sum((met - count / 10) ** 2 / (count / 10) for met in pairs.values())
        assert distance < 9 + 5 * math.sqrt(2 * 9)


def test_span_lengths_are_those_of_spanbert_and_a_span_has_one_fate() -> None:
    count, length = 4000, 512
    tokens = np.full(count * length, 21, np.uint16)
    starts = np.arange(0, count * length + 1, length)
    tokens[starts[:-1]], tokens[starts[1:] - 1] = 2, 3
    keys = mask_keys(seed=1, phase=0, epochs=np.zeros(count, np.int64), samples=np.arange(count))
    # So few wanted that spans hardly meet or are cut.
    chosen = choose_spans(tokens, starts, np.full(count, 11), keys, SPECIAL, p=P, longest=LONGEST)
    # The first span of each sequence is the one that no other cuts: the geometric mean of SpanBERT is 3.8.
    first = 1 + np.array([(draw(int(row_key), 0, 0) >> 32) * (length - 2) >> 32 for row_key in keys])
    sizes = np.bincount(chosen.rows[chosen.deciders == first[chosen.rows]], minlength=count)
    shares = P * (1 - P) ** np.arange(LONGEST) / (1 - (1 - P) ** LONGEST)
    mean = (shares * np.arange(1, LONGEST + 1)).sum()
    assert mean == pytest.approx(3.8, abs=0.01)
    spread = math.sqrt((shares * (np.arange(1, LONGEST + 1) - mean) ** 2).sum() / count)
    assert abs(sizes.mean() - mean) < 4 * spread + 0.05  # 0.05: spans cut by the sequence's end

    masked = mask_tokens(tokens, starts, keys, MaskingConfig(strategy="span"), SPECIAL, length)
    chosen = choose_spans(tokens, starts, np.full(count, 77), keys, SPECIAL, p=P, longest=LONGEST)
    became_mask = masked.tokens[chosen.places + starts[chosen.rows]] == SPECIAL.mask_id
    fates = np.stack([chosen.rows * length + chosen.deciders, became_mask])
    assert len(np.unique(fates, axis=1).T) == len(np.unique(fates[0]))
    spans = len(np.unique(fates[0]))
    by_span = np.unique(fates, axis=1)[1].mean()
    assert abs(by_span - 0.8) < 4 * math.sqrt(0.16 / spans)


def test_the_rate_moves_steadily_from_the_first_step_to_the_last() -> None:
    config = MaskingConfig(rate=0.30, final_rate=0.15)
    assert [config.rate_at(step, 101) for step in (0, 50, 100)] == pytest.approx([0.30, 0.225, 0.15])
    assert config.rate_at(7, None) == 0.30
    assert config.last_rate == 0.15
    assert config.most(100) == 30
    assert MaskingConfig(rate=0.15, final_rate=0.30).most(100) == 30
    assert [MaskingConfig().rate_at(step, 9) for step in (0, 8)] == [0.15, 0.15]
    # One step is the first and the last.
    assert config.rate_at(0, 1) == 0.30


def test_the_recipes_of_the_page_on_masking_are_such() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "masking.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    configs = [build(MaskingConfig, yaml.safe_load(block)["masking"], "masking") for block in blocks]
    assert configs == [
        MaskingConfig(),
        MaskingConfig(strategy="whole_word", rate=0.30, final_rate=0.15),
        MaskingConfig(epochs=10),
    ]
    named = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    assert named - {"strategy"} == set(STRATEGIES)


def test_static_masks_come_round() -> None:
    epochs = np.arange(25)
    assert np.array_equal(MaskingConfig().epoch_of(epochs), epochs)
    assert np.array_equal(MaskingConfig(epochs=1).epoch_of(epochs), np.zeros(25))
    assert np.array_equal(MaskingConfig(epochs=10).epoch_of(epochs), epochs % 10)
