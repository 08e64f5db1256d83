"""Draws are a function of (key, counter), uniform, and pinned: shards and masks of old runs depend on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import counter_random
from pipeline.counter_random import Stream, draw, key, permutation, unit


def test_bits_are_a_contract() -> None:
    # Changing any of these changes every shard and every mask: a new format version.
    assert key(1, 2, 3) == 0x4E2889B21BA43FF3
    assert draw(key(7), np.arange(2)).tolist() == [17416842249583161684, 17961717700484603318]
    assert [Stream(key(7)).bits()] == [17416842249583161684]
    assert permutation(key(7), 8).tolist() == [4, 6, 3, 2, 7, 5, 0, 1]


@given(st.lists(st.integers(0, 2**80), max_size=4), st.lists(st.integers(0, 2**80), max_size=4))
def test_different_parts_give_different_keys(left: list[int], right: list[int]) -> None:
    assert (key(*left) == key(*right)) == (left == right)


def test_a_negative_part_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        key(3, -1)


@given(st.integers(0, 2**64 - 1), st.integers(0, 300))
def test_a_permutation_holds_each_number_once(draw_key: int, size: int) -> None:
    assert sorted(permutation(draw_key, size)) == list(range(size))


@given(st.lists(st.integers(0, 2**10) | st.integers(0, 2**64 - 1), max_size=300))
def test_a_permutation_is_the_order_of_the_draws_whatever_bits_they_share(draws: list[int]) -> None:
    drawn = np.array(draws, np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counter_random, "draw", lambda key, counters: drawn[counters])
        patch.setattr(counter_random, "_PIECE", 100)
        assert permutation(0, len(drawn)).tolist() == np.argsort(drawn, kind="stable").tolist()


def test_draws_are_uniform_and_independent_of_neighbours() -> None:
    bits = draw(key(1), np.arange(1 << 18))
    numbers = unit(bits)
    counts = np.histogram(numbers, bins=64, range=(0, 1))[0]
    expected = len(numbers) / 64
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 120  # 63 degrees of freedom: p ≈ 1e-5
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01
    # The same counters under the next key say something else.
    assert abs(np.corrcoef(numbers, unit(draw(key(2), np.arange(1 << 18))))[0, 1]) < 0.01


def test_a_stream_walks_the_same_draws_as_an_array() -> None:
    stream = Stream(key(5))
    assert [stream.bits() for _ in range(100)] == draw(key(5), np.arange(100)).tolist()


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_between_includes_both_ends_and_nothing_else(low: int, width: int) -> None:
    stream = Stream(key(low, width))
    assert all(low <= stream.between(low, low + width) <= low + width for _ in range(20))


def test_below_reaches_every_number() -> None:
    stream = Stream(key(9))
    assert {stream.below(6) for _ in range(300)} == set(range(6))
