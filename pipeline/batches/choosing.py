"""Which tokens are hidden: each for itself, or whole words; spans are `spans.py`'s (pure functions on flat arrays).

In: sequences laid end to end, how many tokens of each are wanted, a 64-bit key for each. Out: `Chosen`.
What always holds:
- What is chosen of a sequence is a function of its key and its own tokens.
- Special tokens are never chosen, and no word reaches across one.
- Of each sequence exactly as many are chosen as wanted, and fewer only where none that could be added is left.

Source: Devlin et al. 2018 and Google's create_pretraining_data (words in random order, one that would exceed the
number is passed over).

Example:
    chosen = choose_words(tokens, starts, wanted, keys, special)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.random_order import in_random_order
from pipeline.batches.special_ids import SPECIAL, SpecialIds
from pipeline.batches.whole_words import Words, kinds_of, ranges

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The M chosen tokens of B sequences, ascending.

    at: which of all tokens
    counts: B, how many of each sequence
    rows: which sequence
    places: where in it
    deciders: the place whose draw decides what becomes of the token: its own, or that of its span's beginning
    """

    at: I64
    counts: I64
    rows: I64
    places: I64
    deciders: I64


def choose_tokens(tokens: NDArray[Any], starts: I64, wanted: I64, keys: U64, special: SpecialIds) -> Chosen:
    """Each token for itself.

    tokens: T ids; starts: B + 1; wanted, keys: B
    """
    ordinary = (kinds_of(tokens, special) & SPECIAL) == 0
    at = in_random_order(ordinary.view(np.int8), starts, wanted, keys)
    at.sort()
    return chosen_at(at, starts)


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
    words = Words(tokens, starts, special, continues)
    sizes = words.sizes()
    whole = in_random_order(sizes, words.offsets, wanted, keys)
    at, _ = ranges(words.first[whole], sizes[whole])
    at.sort()
    return chosen_at(at, starts)


def chosen_at(at: I64, starts: I64) -> Chosen:
    """From the tokens chosen, ascending; each decides for itself."""
    counts = np.diff(np.searchsorted(at, starts))
    rows = np.repeat(np.arange(len(starts) - 1), counts)
    places = at - starts.take(rows)
    return Chosen(at=at, counts=counts, rows=rows, places=places, deciders=places)
