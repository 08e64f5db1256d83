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

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.mask_draws import CHOOSE, GOLDEN, SPAN
from pipeline.batches.special_ids import SpecialIds
from pipeline.counter_random import mix64, unit

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

# A sortable number for a token or word: a bit that puts those that may not be chosen last, 47 random bits, and
# its place in the row, so that sorting a row finds places without a second array.
_PLACE_BITS = np.uint64(16)
_PLACE = np.uint64((1 << 16) - 1)
_BARRED = np.uint64(1 << 63)
_LOWER = np.uint64((1 << 63) - 1)
# Numbers drawn and sorted at once: 256 KB, which a core's second-level cache holds (benchmarks/loader.py; half or
# twice as many cost a tenth).
_SORTED_AT_ONCE = 1 << 15


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
    lengths = np.diff(starts)
    barred = np.flatnonzero(special.is_special[tokens])
    barred_rows = np.searchsorted(starts, barred, side="right") - 1
    barred -= starts[barred_rows]
    width = int(lengths.max(initial=0))
    place = np.arange(width, dtype=np.uint64)
    steps = (place + np.uint64(1)) * GOLDEN
    streams = keys ^ CHOOSE
    hidden = np.zeros(len(tokens), np.bool_)
    for part in _parts(len(lengths), width):
        numbers = _mix_in_place(np.add(streams[part, None], steps))
        _number_places(numbers, place)
        low, high = np.searchsorted(barred_rows, [part.start, part.start + len(numbers)])
        numbers[barred_rows[low:high] - part.start, barred[low:high]] |= _BARRED
        if lengths[part].min() < width:
            numbers[place >= lengths[part, None].astype(np.uint64)] = _BARRED
        numbers.sort(axis=1)
        numbers = numbers[:, : int(wanted[part].max())]
        taken = np.arange(numbers.shape[1]) < wanted[part, None]
        taken &= numbers < _BARRED
        rows = np.nonzero(taken)[0] + part.start
        hidden[starts[rows] + (numbers[taken] & _PLACE).astype(np.int64)] = True
    return _chosen(hidden, starts)


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
    words = _Words(tokens, starts, keys, special, continues)
    hidden = np.zeros(len(tokens), np.bool_)
    for part, numbers in words.in_random_order():
        remaining = wanted[part].copy()
        open_rows = np.flatnonzero(remaining)
        # Nearly always the first few words are enough; the rest are looked at where they are not.
        edges = (0, int(remaining.max()) + 4, numbers.shape[1])
        for first, last in itertools.pairwise(edges):
            here = numbers[open_rows, first:last] if first else numbers[:, first:last][open_rows]
            there = here < _BARRED
            word = words.offsets[part][open_rows, None] + (here & _PLACE).astype(np.int64)
            sizes = np.where(there, words.sizes[np.where(there, word, 0)], len(tokens) + 1).T.copy()
            left, fits = remaining[open_rows], np.empty(sizes.shape, np.bool_)
            for column, size in enumerate(sizes):
                np.less_equal(size, left, out=fits[column])
                left -= size * fits[column]
            remaining[open_rows] = left
            taken = word[fits.T]
            hidden[_ranges(words.first[taken], words.sizes[taken])] = True
            open_rows = open_rows[left > 0]
            if not len(open_rows):
                break
    return _chosen(hidden, starts)


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
    words = _Words(tokens, starts, keys, special, continues)
    shares = p * (1 - p) ** np.arange(longest)
    bounds = np.cumsum(shares / shares.sum())[:-1]
    hidden, begins = np.zeros(len(tokens), np.bool_), np.zeros(len(tokens), np.int64)
    streams = keys ^ SPAN
    run_ends = words.run_ends()
    remaining = wanted.copy()
    # All rows at once: a step of the loop costs its calls, not its rows.
    parts = [numbers for _, numbers in words.in_random_order()]
    shuffled = np.concatenate(parts).T if parts else np.zeros((0, 0), np.uint64)
    open_rows = np.arange(len(wanted))
    for numbers in shuffled:
        here = numbers[open_rows]
        still = (remaining[open_rows] > 0) & (here < _BARRED)
        open_rows = open_rows[still]
        if not len(open_rows):
            break
        word = words.offsets[open_rows] + (here[still] & _PLACE).astype(np.int64)
        free = ~hidden[words.first[word]]
        rows, word = open_rows[free], word[free]
        first = words.first[word]
        draws = unit(mix64(streams[rows] + (first - starts[rows] + 1).astype(np.uint64) * GOLDEN))
        last = np.minimum(word + np.searchsorted(bounds, draws, side="right"), run_ends[word])
        sizes = words.first[last] + words.sizes[last] - first
        inside, owner = _ranges(first, sizes), np.repeat(np.arange(len(rows)), sizes)
        new = ~hidden[inside]
        # Of those not hidden yet, as many as the row still wants.
        nth = np.cumsum(new)
        before: I64 = (nth - new)[np.cumsum(sizes) - sizes]
        new &= nth <= (before + remaining[rows])[owner]
        inside, owner = inside[new], owner[new]
        hidden[inside] = True
        begins[inside] = first[owner]
        remaining[rows] -= np.bincount(owner, minlength=len(rows))
    chosen = _chosen(hidden, starts)
    deciders = begins[chosen.places + starts[chosen.rows]] - starts[chosen.rows]
    return Chosen(rows=chosen.rows, places=chosen.places, deciders=deciders)


class _Words:
    """The words of sequences that may be hidden, numbered through all sequences.

    first, sizes: a word's first token, and how many it has
    offsets: B + 1, the number of each sequence's first word
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        starts: I64,
        keys: U64,
        special: SpecialIds,
        continues: NDArray[np.bool_] | None,
    ) -> None:
        is_special = special.is_special[tokens]
        begins = ~special.is_continuing[tokens] if continues is None else ~continues | is_special
        begins[starts[:-1][starts[:-1] < len(tokens)]] = True
        begins[1:] |= is_special[:-1]
        first = np.flatnonzero(begins)
        sizes = np.diff(first, append=len(tokens))
        usable = ~is_special[first]
        self.first, self.sizes = first[usable], sizes[usable]
        self.offsets = np.searchsorted(self.first, starts)
        self._keys, self._starts = keys, starts[:-1]

    def run_ends(self) -> I64:
        """For each word the last that follows it with no special token between them."""
        follows = self.first[1:] == (self.first + self.sizes)[:-1]
        # Sequences end where they end, special token or not.
        inner = self.offsets[1:-1]
        follows[inner[(inner > 0) & (inner < len(self.first))] - 1] = False
        ends = np.flatnonzero(~np.append(follows, False))
        return np.repeat(ends, np.diff(ends, prepend=-1))

    def in_random_order(self) -> Iterator[tuple[slice, U64]]:
        """Rows of sequences, and for each its words' places among its words, shuffled, in the lowest bits.

        Beyond a row's last word stands a number that is not below `_BARRED`.
        """
        counts = np.diff(self.offsets)
        width = int(counts.max(initial=0))
        column = np.arange(width, dtype=np.uint64)
        for part in _parts(len(counts), width):
            rows = counts[part]
            low, high = self.offsets[part.start], self.offsets[part.start + len(rows)]
            first = self.first[low:high].astype(np.uint64)
            # The stream of `choose_tokens`, at each word's first token.
            streams = (self._keys[part] ^ CHOOSE) + (
                np.uint64(1) - self._starts[part].astype(np.uint64)
            ) * GOLDEN
            draws = _mix_in_place(np.repeat(streams, rows) + first * GOLDEN)
            numbers = np.full((len(rows), width), _BARRED)
            there = column < rows[:, None].astype(np.uint64)
            numbers[there] = draws
            _number_places(numbers, column)
            numbers[~there] = _BARRED
            numbers.sort(axis=1)
            yield part, numbers


def _parts(rows: int, width: int) -> Iterator[slice]:
    group = max(1, _SORTED_AT_ONCE // max(1, width))
    return (slice(first, first + group) for first in range(0, rows, group))


def _number_places(numbers: U64, places: U64) -> None:
    """Put `places` into the lowest bits of drawn numbers, and clear the highest."""
    numbers &= _LOWER
    numbers >>= _PLACE_BITS
    numbers <<= _PLACE_BITS
    numbers |= places


def _ranges(first: I64, sizes: I64) -> I64:
    """first[0] … first[0] + sizes[0] − 1, then those of first[1], …"""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - sizes), sizes)


def _chosen(hidden: NDArray[np.bool_], starts: I64) -> Chosen:
    at = np.flatnonzero(hidden)
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(np.searchsorted(at, starts)))
    places = at - starts[rows]
    return Chosen(rows=rows, places=places, deciders=places)


def _mix_in_place(words: U64) -> U64:
    """`counter_random.mix64` into `words`: fresh pages for its temporaries would cost eight times the arithmetic."""
    shifted = np.empty_like(words)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        np.right_shift(words, np.uint64(shift), out=shifted)
        np.bitwise_xor(words, shifted, out=words)
        if factor != 1:
            np.multiply(words, np.uint64(factor), out=words)
    return words
