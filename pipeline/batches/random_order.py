"""Items of rows (their tokens, or their words) in random order, as many as fit (pure functions on flat arrays).

In: how many tokens each item has, which items a row has, how many tokens of it are wanted, a 64-bit key for each.
Out: the items taken. What always holds: a row's order is a function of its key, of how many items it has and of how
many tokens are wanted; all orders are equally likely.

Example:
    taken = in_random_order(sizes, offsets, wanted, keys)
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.mask_draws import CHOOSE, GOLDEN, SHUFFLE

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

# A row's items (tokens, or words) come in random order: at first some are drawn, of which repeated ones fall away,
# and only where those were not enough, all are shuffled. Both are uniform, hence so is the order; but drawing takes a
# tenth of the numbers. How many are drawn is a function of how many tokens are wanted: half as many again, and:
_DRAWN_BESIDE = 8
# To shuffle, a sortable number an item: 48 random bits, and below them its place, so that sorting a row finds places
# without a second array. Beyond a row's last item stands `_BARRED`, which no place reaches.
_PLACE = np.uint64((1 << 16) - 1)
_BARRED = np.uint64((1 << 64) - 1)
# Items looked at first where those at a row's head did not come to its number exactly, and how many times as many each
# time after.
_LOOKED_AT, _TIMES_MORE = 4, 4


def in_random_order(sizes: NDArray[Any], offsets: I64, wanted: I64, keys: U64) -> I64:
    """The items taken of all rows: each row's in random order, passing over those that would be too many.

    sizes: of all rows' items, in tokens, 0 for what may not be chosen
    offsets: B + 1, each row's first item
    """
    counts = np.diff(offsets)
    rows = np.flatnonzero((wanted > 0) & (counts > 0))
    if not len(rows):
        return rows
    left, drawn = wanted[rows], drawn_count(wanted[rows])
    ranks = np.arange(int(drawn.max()))
    items = draw_items((keys[rows] ^ CHOOSE)[:, None], counts[rows, None], ranks)
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
    order = shuffle_items(keys[rows], counts[rows])
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


def drawn_count(wanted: I64) -> I64:
    """How many items are drawn, repeated ones included, before the rest is shuffled."""
    return wanted + (wanted >> 1) + _DRAWN_BESIDE


def draw_items(streams: U64, counts: I64, ranks: I64) -> I64:
    """Items drawn uniformly, repeated ones included, for each rank of each row."""
    numbers = streams + (ranks + 1).view(np.uint64) * GOLDEN
    mix_in_place(numbers)
    # The upper 32 bits times the count, shifted back: uniform to within count / 2^32.
    numbers >>= np.uint64(32)
    numbers *= counts.view(np.uint64)
    numbers >>= np.uint64(32)
    return numbers.view(np.int64)


def shuffle_items(keys: U64, counts: I64) -> I64:
    """All items of each row, in an order of their own; beyond a row's last one stands no item's place."""
    place = np.arange(int(counts.max()), dtype=np.uint64)
    numbers = (keys ^ SHUFFLE)[:, None] + (place + np.uint64(1)) * GOLDEN
    mix_in_place(numbers)
    numbers &= ~_PLACE
    numbers |= place
    numbers[place >= counts[:, None].view(np.uint64)] = _BARRED
    numbers.sort(axis=1)
    numbers &= _PLACE
    return numbers.view(np.int64)


def mix_in_place(words: U64) -> None:
    """`counter_random.mix64` into `words`, but for its last step, which leaves a number's upper half as it is.

    In place, since fresh pages for its temporaries would cost eight times the arithmetic.
    """
    shifted = np.empty_like(words)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(words, np.uint64(shift), out=shifted)
        np.bitwise_xor(words, shifted, out=words)
        np.multiply(words, np.uint64(factor), out=words)
