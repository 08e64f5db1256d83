"""Dealing: any few neighbours carry nearly their share."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dealing import STRATA, deal, stratum_of


@given(st.lists(st.integers(0, 500), max_size=300), st.integers(0, 10_000))
def test_everything_is_dealt_once(sizes: list[int], first: int) -> None:
    assert sorted(deal(np.array(sizes, np.int64), first)) == list(range(len(sizes)))


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 20))
def test_runs_of_a_power_of_two_meet_each_part_of_the_strata_equally(
    first: int, bits: int, blocks: int
) -> None:
    run = 1 << bits
    places = np.arange(first, first + run * blocks).reshape(blocks, run)
    parts = stratum_of(places).astype(int) * run // STRATA
    assert (np.sort(parts, axis=1) == np.arange(run)).all()


@given(st.lists(st.integers(0, 500), min_size=2, max_size=300), st.integers(0, 100))
def test_a_larger_stratum_holds_no_smaller_thing(sizes: list[int], first: int) -> None:
    dealt = np.array(sizes)[deal(np.array(sizes), first)]
    strata = stratum_of(np.arange(first, first + len(sizes)))
    by_stratum: list[Any] = [dealt[strata == each] for each in range(STRATA)]
    filled = [each for each in by_stratum if len(each)]
    assert all(low.max() <= high.min() for low, high in pairwise(filled))


@pytest.mark.parametrize("run", [16, 64, 256])
def test_neighbours_carry_nearly_equal_sums_where_chance_alone_would_not_see_to_it(run: int) -> None:
    rng = np.random.default_rng(1)
    sizes = np.where(rng.random(4096) < 0.8, 125, rng.integers(2, 125, 4096))
    dealt = sizes[deal(sizes)].reshape(-1, run).sum(axis=1)
    shuffled = sizes.reshape(-1, run).sum(axis=1)
    assert dealt.max() < 1.05 * dealt.mean()
    assert dealt.std() < shuffled.std() / 3


def test_what_is_of_one_size_keeps_to_chance() -> None:
    """Else each pair would have the same neighbours in every epoch."""
    sizes = np.full(4096, 125)
    rng = np.random.default_rng(1)
    orders = [shuffle[deal(sizes[shuffle])] for shuffle in (rng.permutation(4096) for _ in range(2))]
    together = (orders[0][:-1] + 1 == orders[0][1:]).mean()
    assert together < 0.01
    assert (orders[0] == orders[1]).mean() < 0.01
