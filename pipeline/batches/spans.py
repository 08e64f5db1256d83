"""Spans of whole words to hide (Joshi et al. 2020, SpanBERT §3.1).

In: sequences laid end to end, how many tokens of each are wanted, a 64-bit key for each. Out: `Chosen`.
What always holds: a span begins at a word that is not hidden yet, at words in random order, and reaches across no
special token; its length in words is of a geometric distribution cut at `longest`; the last span of a sequence is cut
where the number is reached.

Example:
    chosen = choose_spans(tokens, starts, wanted, keys, special, p=0.2, longest=10)
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.choosing import Chosen, chosen_at
from pipeline.batches.mask_draws import CHOOSE, GOLDEN, SPAN
from pipeline.batches.random_order import draw_items, drawn_count, mix_in_place, shuffle_items
from pipeline.batches.special_ids import SpecialIds
from pipeline.batches.whole_words import Words, ranges

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

# A hidden token and the first place of its span, in one number.
_PLACE_BITS = 16
_PLACE = (1 << _PLACE_BITS) - 1
# Spans of a row looked at together: each is held against all before it.
_MOST_AT_ONCE = 32
# Span lengths are drawn from a table, to 2^-16.
_LENGTH_BITS = 16


def choose_spans(
    tokens: NDArray[Any],
    starts: I64,
    wanted: I64,
    keys: U64,
    special: SpecialIds,
    continues: NDArray[np.bool_] | None = None,
    *,
    p: float,
    longest: int,
) -> Chosen:
    """Spans of whole words that begin at words in random order.

    continues: as `choose_words` has it
    p, longest: of the geometric distribution of their lengths, in words
    """
    words = Words(tokens, starts, special, continues)
    lengths, mean = _span_lengths(p, longest)
    spans = _Spans(words, starts, keys ^ SPAN, lengths, mean, int(wanted.max(initial=0)))
    counts, left = np.diff(words.offsets), wanted.copy()
    rows = np.flatnonzero((left > 0) & (counts > 0))
    streams, drawn = keys ^ CHOOSE, drawn_count(wanted)
    rows = spans.lay(rows, left, drawn, lambda rows, ranks: draw_items(streams[rows], counts[rows], ranks))
    if len(rows):
        order = np.zeros((len(wanted), int(counts[rows].max())), np.int64)
        order[rows] = shuffle_items(keys[rows], counts[rows])
        spans.lay(rows, left, counts, lambda rows, ranks: order[rows, ranks])
    both = np.concatenate([np.zeros(0, np.int64), *spans.found])
    both.sort()
    return replace(chosen_at(both >> _PLACE_BITS, starts), deciders=both & _PLACE)


class _Spans:
    """Spans being laid: what they hide so far, in `found` (token << 16 | its span's first place in the row)."""

    def __init__(
        self, words: Words, starts: I64, streams: U64, lengths: I64, mean: float, most_wanted: int
    ) -> None:
        self._words, self._starts, self._streams, self._lengths = words, starts, streams, lengths
        self._hidden = np.zeros(words.tokens, np.bool_)
        self._owner = np.empty(words.tokens, np.int32)
        self._run_ends = words.run_ends()
        # Beginnings looked at together, and tokens a row more than it wants, since spans may meet: nearly always
        # enough. What becomes of a row does not depend on either.
        mean *= words.tokens / len(words.first) if words.tokens else 1
        self._at_once, self._spare = min(_MOST_AT_ONCE, 6 + int(1.5 * most_wanted / mean)), int(3 * mean)
        self.found: list[I64] = []

    def lay(self, rows: I64, left: I64, limits: I64, order: Callable[[I64, I64], I64]) -> I64:
        """Lay spans at the words that `order` names, up to `limits` of each row; returns rows that want more.

        left: tokens that each row still wants; becomes less
        order: the words at some ranks (ranks × rows) of the rows' orders
        """
        words, starts = self._words, self._starts
        passed = np.zeros(len(left), np.int64)
        wanting = rows
        while len(rows):
            ranks = passed[rows] + np.arange(self._at_once)[:, None]
            there = ranks < limits[rows]
            np.minimum(ranks, limits[rows] - 1, out=ranks)
            word = order(rows, ranks)
            word += words.offsets[rows]
            first = words.first.take(word)
            draws = (first - starts[rows] + 1).view(np.uint64)
            draws *= GOLDEN
            draws += self._streams[rows]
            mix_in_place(draws)
            draws >>= np.uint64(64 - _LENGTH_BITS)
            word += self._lengths.take(draws.view(np.int64))
            word += 1
            stops = np.minimum(words.first.take(word, mode="clip"), self._run_ends.take(first))
            sizes = stops - first
            sizes *= there
            # A span begins only where none lies yet.
            if self.found:
                sizes[self._hidden.take(first)] = 0
            _drop_covered(first, sizes)
            before = np.cumsum(sizes, axis=0)
            before -= sizes
            looked_at = there & (before < left[rows] + self._spare)
            passed[rows] += looked_at.sum(axis=0)
            live = (looked_at & (sizes > 0)).T
            self._hide(rows, left, np.nonzero(live)[0], first.T[live], sizes.T[live])
            rows = rows[(left[rows] > 0) & (passed[rows] < limits[rows])]
        return wanting[left[wanting] > 0]

    def _hide(self, rows: I64, left: I64, of_row: I64, first: I64, sizes: I64) -> None:
        """Hide the tokens of spans, ordered by row, as many as are `left`."""
        inside, span = ranges(first, sizes)
        # Where spans meet, the earlier one has the token: it is written last.
        self._owner[inside[::-1]] = span[::-1]
        new = self._owner.take(inside) == span
        if self.found:
            new &= ~self._hidden.take(inside)
        # Of those not hidden yet, as many as the row still wants.
        nth = np.concatenate([[0], np.cumsum(new)])
        edges = np.concatenate([[0], np.cumsum(sizes)])[np.searchsorted(of_row, np.arange(len(rows) + 1))]
        most = nth[edges[:-1]] + left[rows]
        new &= nth[1:] <= most.take(of_row).take(span)
        inside, span = inside[new], span[new]
        self._hidden[inside] = True
        places = first - self._starts[rows].take(of_row)
        self.found.append((inside << _PLACE_BITS) | places.take(span))
        left[rows] -= np.minimum(np.diff(nth[edges]), left[rows])


def _drop_covered(first: I64, sizes: I64) -> None:
    """Of spans of rows side by side, in order, set the `sizes` of those that begin inside an earlier one to 0.

    Inside one that stays, that is: one that doesn't begin covers nothing.
    """
    firsts, lengths = first.astype(np.uint32), sizes.astype(np.uint32)
    # How far the second begins behind the first; before it is very far behind.
    covers = np.less(firsts - firsts[:, None], lengths[:, None])
    covers &= np.tri(len(firsts), k=-1, dtype=np.bool_).T[:, :, None]
    # Those that nothing covers stay, those that one of these covers fall, and what is left is decided by them.
    live = ~np.bitwise_or.reduce(covers, axis=0)
    while True:
        dead = np.bitwise_or.reduce(covers & live[:, None], axis=0)
        if (live | dead).all():
            break
        live |= ~np.bitwise_or.reduce(covers & ~dead[:, None], axis=0)
    sizes *= live


@lru_cache(maxsize=8)
def _span_lengths(p: float, longest: int) -> tuple[I64, float]:
    """For each draw of 16 bits how many words follow a span's first, and the mean length in words."""
    shares = p * (1 - p) ** np.arange(longest)
    shares /= shares.sum()
    draws = (np.arange(1 << _LENGTH_BITS) + 0.5) / (1 << _LENGTH_BITS)
    return np.searchsorted(np.cumsum(shares)[:-1], draws), float(shares @ np.arange(1, longest + 1))
