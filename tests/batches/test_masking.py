"""Law 6 and the published counts, over millions of tokens."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches.masking import STRATEGIES, MaskingConfig, mask_keys, mask_tokens
from pipeline.batches.special_ids import SpecialIds
from pipeline.errors import InputError

LENGTH = 128
SPECIAL = SpecialIds(
    size=2000, pad_id=0, cls_id=101, sep_id=102, mask_id=103, special_ids=(*range(104), 555, 1999)
)
ORDINARY = np.array([i for i in range(2000) if i not in set(SPECIAL.special_ids)])


# A resumed run must go on with the masks it began with, so a change here breaks every run under way.
GOLDEN_PLACES = [57, 61, 68, 79, 89, 100, 105, 111, 123, 125, 126, 130]
GOLDEN_TOKENS = [103, 103, 103, 700, 103, 103, 103, 700, 103, 1406, 103, 901]


def sequences(lengths: Any, seed: int = 0, ids: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """[CLS] A [SEP] B [SEP] of the given lengths (5 and more), end to end, and where each begins."""
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = rng.choice(ORDINARY if ids is None else ids, starts[-1]).astype(np.uint16)
    tokens[starts[:-1]] = 101
    tokens[starts[:-1] + np.diff(starts) // 2] = 102
    tokens[starts[1:] - 1] = 102
    return tokens, starts


def mask(
    tokens: Any, starts: Any, *, config: MaskingConfig | None = None, epoch: int = 0, **more: Any
) -> Any:
    samples = more.get("samples", np.arange(len(starts) - 1))
    keys = mask_keys(seed=more.get("seed", 1), phase=0, epochs=np.full(len(samples), epoch), samples=samples)
    return mask_tokens(tokens, starts, keys, config or MaskingConfig(), SPECIAL, LENGTH)


@pytest.fixture(scope="module")
def million() -> tuple[np.ndarray, np.ndarray, Any]:
    """Over a million masked tokens."""
    lengths = np.where(np.random.default_rng(1).random(60_000) < 0.9, LENGTH, 40)
    tokens, starts = sequences(lengths)
    return tokens, starts, mask(tokens, starts)


def deviation(observed: np.ndarray, expected: np.ndarray | float) -> float:
    """Chi-square's distance from its expectation, in standard deviations."""
    degrees = observed.size - 1
    return float((((observed - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees))


def test_counts_are_the_published_ones() -> None:
    lengths = np.arange(5, LENGTH + 1)
    tokens, starts = sequences(lengths)
    masked = mask(tokens, starts)
    # As in create_masked_lm_predictions: at least one, at most max_predictions_per_seq, halves to even.
    published = [min(20, max(1, round(int(length) * 0.15))) for length in lengths]
    assert masked.counts.tolist() == published
    assert not masked.short.any()


def test_the_most_predictions_is_that_of_the_paper_unless_given() -> None:
    assert [MaskingConfig().most(length) for length in (128, 512)] == [20, 77]
    assert MaskingConfig(rate=0.07).most(100) == 7
    tokens, starts = sequences(np.full(50, LENGTH))
    assert (mask(tokens, starts, config=MaskingConfig(max_predictions=5)).counts == 5).all()


def test_shares_over_a_million_masked_tokens(million: Any) -> None:
    _, starts, masked = million
    total = len(masked.places)
    assert total > 1_000_000
    lengths = np.diff(starts)
    # 19 of 128 and 6 of 40
    assert total == (np.where(lengths == LENGTH, 19, 6)).sum()
    seen = masked.tokens[masked.places]
    became_mask = (seen == SPECIAL.mask_id).mean()
    kept = (seen == masked.labels).mean()
    other = 1 - became_mask - kept
    by_chance = 0.1 / len(ORDINARY)  # a random draw that hits the token itself
    for share, expected in ((became_mask, 0.8), (kept, 0.1 + by_chance), (other, 0.1 - by_chance)):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / total)


def test_replacements_are_uniform_over_the_ordinary_vocabulary(million: Any) -> None:
    _, _, masked = million
    seen = masked.tokens[masked.places]
    drawn = seen[(seen != SPECIAL.mask_id) & (seen != masked.labels)]
    counts = np.bincount(drawn, minlength=SPECIAL.size)
    assert not counts[list(SPECIAL.special_ids)].any()
    assert abs(deviation(counts[ORDINARY], len(drawn) / len(ORDINARY))) < 4


def test_every_place_is_chosen_alike(million: Any) -> None:
    tokens, starts, masked = million
    full = np.flatnonzero(np.diff(starts) == LENGTH)
    chosen = np.zeros(len(tokens), bool)
    chosen[masked.places] = True
    by_place = chosen[starts[full][:, None] + np.arange(LENGTH)].sum(axis=0)
    candidates = np.delete(by_place, [0, LENGTH // 2, LENGTH - 1])
    assert by_place.sum() == candidates.sum()
    # Without replacement, the variance is smaller than chi-square's by the share not drawn.
    share = 19 / 125
    assert deviation(candidates, candidates.mean()) / (1 - share) < 4


def test_epochs_seeds_and_samples_are_masked_independently(million: Any) -> None:
    tokens, starts, masked = million
    chosen = np.zeros(len(tokens), bool)
    chosen[masked.places] = True
    counts = masked.counts
    candidates = np.diff(starts) - 3
    together = (counts**2 / candidates).sum()  # expected overlap of two independent choices
    spread = math.sqrt((counts * (counts / candidates) * (1 - counts / candidates)).sum())
    others = [
        mask(tokens, starts, epoch=1),
        mask(tokens, starts, seed=2),
        mask(tokens, starts, samples=np.arange(len(starts) - 1) + 1),
    ]
    for other in others:
        assert abs(chosen[other.places].sum() - together) < 4 * spread
    # What becomes of a token is drawn apart from whether it is chosen again.
    again = others[0].places[chosen[others[0].places]]
    assert abs((masked.tokens[again] == SPECIAL.mask_id).mean() - 0.8) < 4 * math.sqrt(0.16 / len(again))


@given(st.lists(st.integers(5, LENGTH), min_size=1, max_size=40), st.integers(0, 1000))
def test_specials_are_neither_masked_nor_drawn_even_where_they_stand_in_the_text(
    lengths: list[int], seed: int
) -> None:
    tokens, starts = sequences(lengths, seed, ids=np.arange(SPECIAL.size))
    masked = mask(tokens, starts, seed=seed)
    specials = np.isin(tokens, SPECIAL.special_ids)
    assert not specials[masked.places].any()
    assert np.array_equal(masked.tokens[specials], tokens[specials])
    changed = masked.tokens[masked.tokens != tokens]
    assert not np.isin(changed[changed != SPECIAL.mask_id], SPECIAL.special_ids).any()


@given(st.lists(st.integers(5, LENGTH), min_size=1, max_size=40), st.integers(0, 1000))
def test_labels_put_back_give_the_original(lengths: list[int], seed: int) -> None:
    tokens, starts = sequences(lengths, seed)
    before = tokens.copy()
    masked = mask(tokens, starts, seed=seed)
    assert np.array_equal(tokens, before)
    restored = masked.tokens.copy()
    restored[masked.places] = masked.labels
    assert np.array_equal(restored, tokens)
    assert (np.diff(masked.places) > 0).all()
    assert masked.counts.sum() == len(masked.places)


@given(st.lists(st.integers(5, LENGTH), min_size=2, max_size=300), st.integers(0, 1000), st.data())
def test_a_mask_does_not_depend_on_its_neighbours(lengths: list[int], seed: int, data: Any) -> None:
    tokens, starts = sequences(lengths, seed)
    whole = mask(tokens, starts)
    index = data.draw(st.integers(0, len(lengths) - 1))
    here = slice(starts[index], starts[index + 1])
    alone = mask(tokens[here], np.array([0, lengths[index]]), samples=np.array([index]))
    assert np.array_equal(alone.tokens, whole.tokens[here])
    inside = (whole.places >= here.start) & (whole.places < here.stop)
    assert np.array_equal(alone.places + here.start, whole.places[inside])


def test_candidates_that_run_short_are_counted() -> None:
    tokens, starts = sequences([20, 20, 20])
    tokens[4:19] = 1  # [UNK]: one ordinary token is left before segment A's end, two of three wanted
    tokens[1:4] = [1, 700, 1]
    tokens[20:40] = 102  # nothing to guess at all
    masked = mask(tokens, starts)
    assert masked.counts.tolist() == [1, 0, 3]
    assert masked.short.tolist() == [2, 3, 0]
    assert masked.places[0] == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_to_mask_is_no_error(strategy: str) -> None:
    config = MaskingConfig(strategy=strategy)
    for tokens, starts in ([], [0]), ([], [0, 0]), ([101, 102, 102], [0, 3]), ([101, 102, 102], [0, 0, 3]):
        masked = mask(np.array(tokens, np.uint16), np.array(starts, np.int64), config=config)
        assert masked.tokens.tolist() == tokens
        assert len(masked.places) == masked.counts.sum() == 0


def test_shares_follow_the_configuration() -> None:
    tokens, starts = sequences(np.full(2000, LENGTH))
    masked = mask(tokens, starts, config=MaskingConfig(rate=0.4, mask=0, random=1, keep=0))
    assert (masked.counts == 51).all()
    assert SPECIAL.mask_id not in masked.tokens
    kept = mask(tokens, starts, config=MaskingConfig(mask=0, random=0, keep=1))
    assert np.array_equal(kept.tokens, tokens)


def test_masks_stay_what_they_are_from_one_version_to_the_next() -> None:
    tokens, starts = sequences([LENGTH] * 3, ids=[700])
    masked = mask(tokens, starts)
    assert masked.places[8:20].tolist() == GOLDEN_PLACES
    assert masked.tokens[masked.places[8:20]].tolist() == GOLDEN_TOKENS


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"strategy": "word"}, "strategy is 'word'; known: token, whole_word, span"),
        ({"rate": 0}, "rate is 0"),
        ({"mask": 0.9}, "sum to 1.1; they must sum to 1"),
        ({"mask": 1.2, "random": -0.2, "keep": 0}, "mask is 1.2"),
        ({"max_predictions": 0}, "max_predictions is 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        MaskingConfig(**wrong)


def test_a_vocabulary_of_specials_alone_is_refused() -> None:
    with pytest.raises(InputError, match="all 4 tokens of the vocabulary are special"):
        SpecialIds(size=4, pad_id=0, cls_id=1, sep_id=2, mask_id=3, special_ids=(0, 1, 2, 3))
