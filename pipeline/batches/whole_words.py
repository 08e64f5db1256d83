"""The words of sequences laid end to end, for masks that hide them whole (pure functions on flat arrays).

In: tokens, where sequences start, and which tokens continue a word, from the shards or by the vocabulary's `##`.
Out: `Words`. What always holds: special tokens are in none, and none reaches across one or past its sequence.

Example:
    words = Words(tokens, starts, special, continues)
    words.first[words.offsets[3]]  # the first word of sequence 3
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.special_ids import CONTINUING, SPECIAL, SpecialIds

I64 = NDArray[np.int64]


class Words:
    """The words of sequences that may be hidden, numbered through all sequences.

    tokens: how many there are
    first: each word's first token, and behind the last word's the number of tokens
    offsets: B + 1, the number of each sequence's first word
    """

    def __init__(
        self, tokens: NDArray[Any], starts: I64, special: SpecialIds, continues: NDArray[np.bool_] | None
    ) -> None:
        self.tokens = len(tokens)
        kinds = kinds_of(tokens, special)
        ordinary = (kinds & SPECIAL) == 0
        # No word or span reaches across the beginning of one of these.
        walls = ~ordinary
        walls[1:] |= ~ordinary[:-1]
        walls[starts[:-1][starts[:-1] < len(tokens)]] = True
        begins = np.ones(len(tokens) + 1, np.bool_)
        inside = (kinds & CONTINUING) != 0 if continues is None else continues
        np.logical_or(walls, ~inside, out=begins[:-1])
        self._lasts = begins[1:] & ordinary
        begins[:-1] &= ordinary
        self._walls = walls
        self.first = np.flatnonzero(begins)
        self.offsets = np.searchsorted(self.first, starts)

    def sizes(self) -> I64:
        """For each word how many tokens it has."""
        sizes = np.flatnonzero(self._lasts)
        sizes -= self.first[:-1]
        sizes += 1
        return sizes

    def run_ends(self) -> I64:
        """For each token the next behind it that no word or span reaches across."""
        walls = np.flatnonzero(self._walls)
        edges = np.append(walls[1:], self.tokens)[: len(walls)]
        return np.repeat(edges, edges - walls)


def kinds_of(tokens: NDArray[Any], special: SpecialIds) -> NDArray[np.uint8]:
    """What each token is, as bits."""
    # As indices of numpy's own type: taken as they are, the look-up takes half as long again.
    return special.kinds.take(tokens.astype(np.intp))


def ranges(first: I64, sizes: I64) -> tuple[I64, NDArray[np.int32]]:
    """first[0] … first[0] + sizes[0] − 1, then those of first[1], …; and for each which one's it is."""
    which = np.repeat(np.arange(len(first), dtype=np.int32), sizes)
    steps = (first - (np.cumsum(sizes) - sizes)).take(which)
    steps += np.arange(len(steps))
    return steps, which
