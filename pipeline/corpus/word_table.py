"""Distinct words → numbers, for all words of a text at once.

In: a text's bytes and where its words lie. Out: the number of each word, and the words that are new.
What always holds: equal words have equal numbers and different ones different numbers (keys are the words
themselves, never hashes alone); numbers count up from 0 in the order in which they are given; memory is that of
the distinct words.

A word of up to 16 bytes is two integers, looked up in a hash table of arrays; the few longer ones go through a
dictionary of Python's. On English 200 MB of words a second are looked up by one core, where Arrow's
`dictionary_encode` gives 23 MB/s (benchmarks/LOG.md).

Example:
    table = WordTable()
    numbers, new = table.look_up(b"to be or not to be", *cut_words(b"to be or not to be"))
    # [0 1 2 3 0 1], [b"to", b"be", b"or", b"not"] or in another order
"""

import numpy as np
from numpy.typing import NDArray

_KEY_BYTES = 8
_SHORT = 2 * _KEY_BYTES
_MASKS = np.array([(1 << (8 * length)) - 1 for length in range(_KEY_BYTES + 1)], np.uint64)
# Odd 64-bit constants of xxhash: any that mix well would do, since keys are compared whole.
_FIRST, _SECOND = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F)
_SLOTS_A_WORD = 4  # and more: the fuller a table, the more slots a word has to try
_LEAST_BITS = 12
_NONE = -1

U64 = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class WordTable:
    """The words met so far."""

    def __init__(self) -> None:
        self._words = 0
        self._long: dict[bytes, int] = {}
        self._make_slots(_LEAST_BITS)

    def __len__(self) -> int:
        return self._words

    def look_up(self, text: bytes, starts: Numbers, ends: Numbers) -> tuple[Numbers, list[bytes]]:
        """The number of each word `text[start:end]` (int64), and the words not met before, in order of numbers.

        No word may be empty or hold a NUL.
        """
        lengths = ends - starts
        first, second = _keys(text, starts, lengths)
        numbers = self._find(first, second)
        new: list[bytes] = []
        long = np.flatnonzero(lengths > _SHORT)
        if len(long):
            numbers[long] = self._long_numbers(text, starts[long].tolist(), ends[long].tolist(), new)
        unknown = np.flatnonzero(numbers == _NONE)
        if len(unknown):
            numbers[unknown], examples = self._add(first[unknown], second[unknown])
            places = unknown[examples]
            bounds = zip(starts[places].tolist(), ends[places].tolist(), strict=True)
            new += [text[start:end] for start, end in bounds]
        return numbers, new

    def _long_numbers(self, text: bytes, starts: list[int], ends: list[int], new: list[bytes]) -> list[int]:
        found = []
        for start, end in zip(starts, ends, strict=True):
            word = text[start:end]
            number = self._long.get(word)
            if number is None:
                number = self._long[word] = self._words
                self._words += 1
                new.append(word)
            found.append(number)
        return found

    def _make_slots(self, bits: int) -> None:
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self._firsts, self._seconds = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.uint64)
        self._numbers = np.full(1 << bits, _NONE, np.int64)

    def _home(self, first: U64, second: U64) -> Numbers:
        mixed = first * _FIRST + second * _SECOND
        mixed ^= mixed >> np.uint64(32)
        return (mixed * _FIRST >> self._shift).view(np.int64)

    def _find(self, first: U64, second: U64) -> Numbers:
        """The number of each key, and −1 for those not there."""
        slots = self._home(first, second)
        numbers = self._numbers[slots]
        left = np.flatnonzero((self._firsts[slots] != first) | (self._seconds[slots] != second))
        # From slot to slot until the word is found, or a free slot says that it isn't there.
        while len(left):
            left = left[numbers[left] != _NONE]
            tried = (slots[left] + 1) & self._mask
            slots[left], numbers[left] = tried, self._numbers[tried]
            left = left[(self._firsts[tried] != first[left]) | (self._seconds[tried] != second[left])]
        return numbers

    def _add(self, first: U64, second: U64) -> tuple[Numbers, Numbers]:
        """Number keys that are not there, repeated ones once; also, for each new one, a place where it stands."""
        order = np.lexsort((second, first))
        begins = np.ones(len(order), np.bool_)
        begins[1:] = np.diff(first[order]).astype(np.bool_) | np.diff(second[order]).astype(np.bool_)
        examples = order[begins]
        numbers = np.empty(len(order), np.int64)
        numbers[order] = self._words + np.cumsum(begins) - 1
        self._words += len(examples)
        self._make_room()
        self._put(first[examples], second[examples], numbers[examples])
        return numbers, examples

    def _make_room(self) -> None:
        if self._words * _SLOTS_A_WORD <= len(self._numbers):
            return
        taken = np.flatnonzero(self._numbers != _NONE)
        kept = self._firsts[taken], self._seconds[taken], self._numbers[taken]
        self._make_slots((self._words * _SLOTS_A_WORD).bit_length())
        self._put(*kept)

    def _put(self, first: U64, second: U64, numbers: Numbers) -> None:
        slots = self._home(first, second)
        left = np.arange(len(numbers))
        while len(left):
            wanted = slots[left]
            free = left[self._numbers[wanted] == _NONE]
            # Of several that want one slot the last one written has it; all then look whether they do.
            self._numbers[slots[free]] = numbers[free]
            placed = free[self._numbers[slots[free]] == numbers[free]]
            self._firsts[slots[placed]], self._seconds[slots[placed]] = first[placed], second[placed]
            left = left[self._numbers[wanted] != numbers[left]]
            slots[left] = (slots[left] + 1) & self._mask


def _keys(text: bytes, starts: Numbers, lengths: Numbers) -> tuple[U64, U64]:
    """The first eight bytes of each word and the next eight, zeros where it has none."""
    padded = text + bytes(_SHORT)
    # A view of eight bytes from every byte on.
    eights = np.ndarray(len(text) + _KEY_BYTES, np.dtype("<u8"), padded, strides=(1,))
    first = eights[starts] & _MASKS[np.minimum(lengths, _KEY_BYTES)]
    second = np.zeros(len(starts), np.uint64)
    longer = np.flatnonzero(lengths > _KEY_BYTES)
    rest = np.minimum(lengths[longer] - _KEY_BYTES, _KEY_BYTES)
    second[longer] = eights[starts[longer] + _KEY_BYTES] & _MASKS[rest]
    return first, second
