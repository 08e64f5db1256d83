"""Which tokens are hidden: each for itself, whole words, or spans of words (pure functions on flat arrays).

In: sequences laid end to end, how many tokens of each are wanted, a 64-bit key for each. Out: `Chosen`.
What always holds:
- What is chosen of a sequence is a function of its key and its own tokens.
- Special tokens are never chosen, and no word or span reaches across one.
- Of each sequence exactly as many are chosen as wanted, and fewer only where none that could be added is left.

Sources: tokens and whole words, Devlin et al. 2018 and Google's create_pretraining_data (words in random order,
one that would exceed the number is passed over); spans, Joshi et al. 2020 (SpanBERT §3.1: lengths in words from a
geometric distribution cut at `longest`, the last span cut where the number is reached).

Example:
    chosen = choose_words(tokens, starts, wanted, keys, special)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.mask_draws import CHOOSE, GOLDEN, SHUFFLE, SPAN
from pipeline.batches.special_ids import CONTINUING, SPECIAL, SpecialIds

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

# A row's items (tokens, or words) come in random order: at first some are drawn, of which repeated ones fall away,
# and only where those were not enough, all are shuffled. Both are uniform, hence so is the order; but drawing takes a
# tenth of the numbers. How many are drawn is a function of how many tokens are wanted: half as many again, and:
_DRAWN_BESIDE = 8
# To shuffle, a sortable number an item: 48 random bits, and below them its place, so that sorting a row finds places
# without a second array. Beyond a row's last item stands `_BARRED`, which no place reaches.
_PLACE_BITS = 16
_PLACE = np.uint64((1 << _PLACE_BITS) - 1)
_BARRED = np.uint64((1 << 64) - 1)
# Words looked at first where those at a row's head did not come to its number exactly, and how many times as many
# each time after.
_LOOKED_AT, _TIMES_MORE = 4, 4
# Spans of a row looked at together: each is held against all before it.
_MOST_AT_ONCE = 32
# Span lengths are drawn from a table, to 2^-16.
_LENGTH_BITS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The M chosen tokens of B sequences, ascending.

    rows: which sequence
    places: where in it
    deciders: the place whose draw decides what becomes of the token: its own, or that of its span's beginning
    """

    rows: I64
    places: I64
    deciders: I64


def choose_tokens(tokens: NDArray[Any], starts: I64, wanted: I64, keys: U64, special: SpecialIds) -> Chosen:
    """Each token for itself.

    tokens: T ids; starts: B + 1; wanted, keys: B
    """
    ordinary = (_kinds(tokens, special) & SPECIAL) == 0
    at = _in_random_order(ordinary.view(np.int8), starts, wanted, keys)
    at.sort()
    return _chosen(at, starts)


def choose_words(
    tokens: NDArray[Any],
    starts: I64,
    wanted: I64,
    keys: U64,
    special: SpecialIds,
    continues: NDArray[np.bool_] | None = None,
) -> Chosen:
    """Words in random order, all their pieces, passing over those that would be too many.

    continues: T, tokens that continue the word before them; None: the vocabulary's `##` pieces
    """
    words = _Words(tokens, starts, special, continues)
    sizes = words.sizes()
    whole = _in_random_order(sizes, words.offsets, wanted, keys)
    at, _ = _ranges(words.first[whole], sizes[whole])
    at.sort()
    return _chosen(at, starts)


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
    words = _Words(tokens, starts, special, continues)
    lengths, mean = _span_lengths(p, longest)
    spans = _Spans(words, starts, keys ^ SPAN, lengths, mean, int(wanted.max(initial=0)))
    counts, left = np.diff(words.offsets), wanted.copy()
    rows = np.flatnonzero((left > 0) & (counts > 0))
    streams, drawn = keys ^ CHOOSE, _drawn(wanted)
    rows = spans.lay(rows, left, drawn, lambda rows, ranks: _draw(streams[rows], counts[rows], ranks))
    if len(rows):
        order = np.zeros((len(wanted), int(counts[rows].max())), np.int64)
        order[rows] = _shuffled(keys[rows], counts[rows])
        spans.lay(rows, left, counts, lambda rows, ranks: order[rows, ranks])
    both = np.concatenate([np.zeros(0, np.int64), *spans.found])
    both.sort()
    chosen = _chosen(both >> _PLACE_BITS, starts)
    return Chosen(rows=chosen.rows, places=chosen.places, deciders=both & int(_PLACE))


def _in_random_order(sizes: NDArray[Any], offsets: I64, wanted: I64, keys: U64) -> I64:
    """Items of each row in random order, passing over those that would be too many.

    sizes: of all rows' items, in tokens, 0 for what may not be chosen
    offsets: B + 1, each row's first item
    """
    counts = np.diff(offsets)
    rows = np.flatnonzero((wanted > 0) & (counts > 0))
    if not len(rows):
        return rows
    left, drawn = wanted[rows], _drawn(wanted[rows])
    ranks = np.arange(int(drawn.max()))
    items = _draw((keys[rows] ^ CHOOSE)[:, None], counts[rows, None], ranks)
    items += offsets[rows, None]
    # Of repeated ones the first counts: it is written last.
    numbers = np.arange(items.size, dtype=np.int32)
    owner = np.empty(len(sizes), np.int32)
    owner[items.ravel()[::-1]] = numbers[::-1]
    here = sizes.take(items)
    here *= owner.take(items) == numbers.reshape(items.shape)
    here *= ranks < drawn[:, None]
    taken = _fitting(here, left)
    found = items[taken]
    open_rows = np.flatnonzero(left)
    if not len(open_rows):
        return found
    rows, left = rows[open_rows], left[open_rows]
    order = _shuffled(keys[rows], counts[rows])
    there = np.arange(order.shape[1]) < counts[rows, None]
    items = np.where(there, order + offsets[rows, None], 0)
    unused = sizes.copy()
    unused[found] = 0
    return np.concatenate([found, items[_fitting(unused.take(items) * there, left)]])


def _fitting(sizes: NDArray[Any], left: I64) -> NDArray[np.bool_]:
    """Which items of rows (0: none) fit into what is `left` of each row, in turn; `left` becomes what they leave."""
    reached = np.cumsum(sizes, axis=1, dtype=np.int64)
    within = reached <= left[:, None]
    taken = within & (sizes > 0)
    reached *= within
    left -= reached.max(axis=1)
    passed = within.sum(axis=1)
    # Behind the first that is too many smaller ones may follow.
    width, ahead = sizes.shape[1], _LOOKED_AT
    rows = np.flatnonzero((left > 0) & (passed < width))
    while len(rows):
        columns = passed[rows, None] + np.arange(ahead)
        # One less, as unsigned: what is not there is larger than all.
        less = sizes[rows[:, None], np.minimum(columns, width - 1)].astype(np.int64) - 1
        less[columns >= width] = -1
        remaining, fits = left[rows].view(np.uint64), np.empty(less.shape[::-1], np.bool_)
        for number, size in enumerate(less.T.copy().view(np.uint64)):
            np.less(size, remaining, out=fits[number])
            remaining -= (size + np.uint64(1)) * fits[number]
        row, column = np.nonzero(fits.T)
        taken[rows[row], columns[row, column]] = True
        left[rows] = remaining.view(np.int64)
        passed[rows] += ahead
        rows = rows[(left[rows] > 0) & (passed[rows] < width)]
        ahead *= _TIMES_MORE
    return taken


class _Spans:
    """Spans being laid: what they hide so far, in `found` (token << 16 | its span's first place in the row)."""

    def __init__(
        self, words: "_Words", starts: I64, streams: U64, lengths: I64, mean: float, most_wanted: int
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
            _mix_in_place(draws)
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
        inside, span = _ranges(first, sizes)
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


class _Words:
    """The words of sequences that may be hidden, numbered through all sequences.

    tokens: how many there are
    first: each word's first token, and behind the last word's the number of tokens
    offsets: B + 1, the number of each sequence's first word
    """

    def __init__(
        self, tokens: NDArray[Any], starts: I64, special: SpecialIds, continues: NDArray[np.bool_] | None
    ) -> None:
        self.tokens = len(tokens)
        kinds = _kinds(tokens, special)
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


def _kinds(tokens: NDArray[Any], special: SpecialIds) -> NDArray[np.uint8]:
    # As indices of numpy's own type: taken as they are, the look-up takes half as long again.
    return special.kinds.take(tokens.astype(np.intp))


def _drawn(wanted: I64) -> I64:
    """How many items are drawn, repeated ones included, before the rest is shuffled."""
    return wanted + (wanted >> 1) + _DRAWN_BESIDE


def _draw(streams: U64, counts: I64, ranks: I64) -> I64:
    """Items drawn uniformly, repeated ones included, for each rank of each row."""
    numbers = streams + (ranks + 1).view(np.uint64) * GOLDEN
    _mix_in_place(numbers)
    # The upper 32 bits times the count, shifted back: uniform to within count / 2^32.
    numbers >>= np.uint64(32)
    numbers *= counts.view(np.uint64)
    numbers >>= np.uint64(32)
    return numbers.view(np.int64)


def _shuffled(keys: U64, counts: I64) -> I64:
    """All items of each row, in an order of their own; beyond a row's last one stands no item's place."""
    place = np.arange(int(counts.max()), dtype=np.uint64)
    numbers = (keys ^ SHUFFLE)[:, None] + (place + np.uint64(1)) * GOLDEN
    _mix_in_place(numbers)
    numbers &= ~_PLACE
    numbers |= place
    numbers[place >= counts[:, None].view(np.uint64)] = _BARRED
    numbers.sort(axis=1)
    numbers &= _PLACE
    return numbers.view(np.int64)


def _ranges(first: I64, sizes: I64) -> tuple[I64, NDArray[np.int32]]:
    """first[0] … first[0] + sizes[0] − 1, then those of first[1], …; and for each which one's it is."""
    which = np.repeat(np.arange(len(first), dtype=np.int32), sizes)
    steps = (first - (np.cumsum(sizes) - sizes)).take(which)
    steps += np.arange(len(steps))
    return steps, which


def _chosen(at: I64, starts: I64) -> Chosen:
    """From the tokens chosen, ascending."""
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(np.searchsorted(at, starts)))
    places = at - starts[rows]
    return Chosen(rows=rows, places=places, deciders=places)


def _mix_in_place(words: U64) -> None:
    """`counter_random.mix64` into `words`, but for its last step, which leaves a number's upper half as it is.

    In place, since fresh pages for its temporaries would cost eight times the arithmetic.
    """
    shifted = np.empty_like(words)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(words, np.uint64(shift), out=shifted)
        np.bitwise_xor(words, shifted, out=words)
        np.multiply(words, np.uint64(factor), out=words)
