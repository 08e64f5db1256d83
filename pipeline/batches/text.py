"""Pairs laid as running text and cut into sequences of the full length (RoBERTa's FULL-SENTENCES).

In: pairs, laid out [CLS] A [SEP] B [SEP], so many to a text. Out: sequences [CLS] … [SEP], all segment A, and where in
their pair they begin. What always holds: A and B stand directly after one another where B follows A; a [SEP] stands
between texts of different documents, so between A and a random B, and between two pairs; every sequence of a text
but its last is full; a text is a function of its own pairs; a lost pair adds nothing.

Source: Liu et al. 2019 (arXiv 1907.11692) §4.2: inputs are packed with full sentences sampled contiguously, may cross
document boundaries, with an extra separator between documents; no next-sentence prediction.

Example:
    text = lay_text(pairs, each=8, length=512, special=special)     # every eight pairs are one text
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.mask_draws import GOLDEN, TEXT
from pipeline.batches.sequences import IGNORED, Sequences
from pipeline.batches.special_ids import SpecialIds
from pipeline.counter_random import mix64

_ENDS = 2  # [CLS] and the last [SEP]


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """Texts cut into sequences.

    sequences: of one text after another; `samples` and `epochs` are those of the pair in which each begins
    offsets: int64 (B), the place of its pair (a separator behind it counted) at which each begins; with sample and
        epoch it is a sequence's identity, since two may begin in one pair
    lost: how many pairs were lost ones
    """

    sequences: Sequences
    offsets: NDArray[np.int64]
    lost: int

    def keys(self, sample_keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The sequences' own keys, from those of their samples (`mask_keys`)."""
        return mix64((sample_keys ^ TEXT) + (self.offsets.astype(np.uint64) + np.uint64(1)) * GOLDEN)


def most_sequences(pairs: int, longest: int, length: int) -> int:
    """The most sequences of `length` that a text of `pairs` pairs gives.

    longest: tokens of the longest pair, its three special ones counted

    A pair takes its own tokens, at most longest − 3, a separator where B is random, and one behind it, which the last
    pair has not: at most longest − 1 places each, and one less in all. A sequence has length − 2 of them.
    """
    return -(-(pairs * (longest - 1) - 1) // (length - _ENDS))


def lay_text(pairs: Sequences, *, each: int, length: int, special: SpecialIds) -> Text:
    """Lay every `each` pairs as one text and cut it into sequences of `length` tokens, special ones included."""
    room = length - _ENDS
    is_lost = pairs.is_blank
    begins, ends = pairs.starts[:-1], pairs.starts[1:]
    # The last pair of each text that is not lost has no separator behind it; −1 where all are lost.
    last_pairs = np.where(is_lost, -1, np.arange(len(pairs))).reshape(-1, each).max(axis=1)
    stays = np.ones(len(pairs.tokens), np.bool_)
    stays[begins] = False
    stays[(begins + pairs.a_ends - 1)[pairs.next_labels != 1]] = False
    stays[ends[last_pairs[last_pairs >= 0]] - 1] = False
    stays[ends[is_lost] - 1] = False

    places = np.add.reduceat(stays, begins, dtype=np.int64)
    a_text = places.reshape(-1, each).sum(axis=1)
    counts = -(-a_text // room)
    taken = np.full(int(counts.sum()), room)
    there = counts > 0
    taken[np.cumsum(counts)[there] - 1] = (a_text - (counts - 1) * room)[there]

    # Where each sequence begins among all places, and in which pair.
    firsts = np.cumsum(taken) - taken
    pair_ends = np.cumsum(places)
    pair = np.searchsorted(pair_ends, firsts, side="right")
    lengths = taken + _ENDS
    starts = np.concatenate([[0], np.cumsum(lengths)])
    inside = np.ones(int(starts[-1]), np.bool_)
    inside[starts[:-1]] = inside[starts[1:] - 1] = False
    tokens = np.empty(len(inside), pairs.tokens.dtype)
    tokens[inside] = pairs.tokens[stays]
    tokens[starts[:-1]] = special.cls_id
    tokens[starts[1:] - 1] = special.sep_id
    continues = None
    if pairs.continues is not None:
        continues = np.zeros(len(inside), np.bool_)
        continues[inside] = pairs.continues[stays]
    return Text(
        sequences=Sequences(
            tokens=tokens,
            starts=starts,
            a_ends=lengths.astype(np.int32),
            next_labels=np.full(len(taken), IGNORED, np.int8),
            samples=pairs.samples[pair],
            epochs=pairs.epochs[pair],
            continues=continues,
        ),
        offsets=firsts - (pair_ends - places)[pair],
        lost=int(is_lost.sum()),
    )
