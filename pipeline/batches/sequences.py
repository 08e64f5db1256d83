"""Pairs laid out as sequences, ready to mask.

In: blocks of pairs, and which of them in which order. Out: `Sequences`, [CLS] A [SEP] B [SEP] laid end to end.
What always holds: a sequence is a function of its own pair; a pair that was lost is [CLS] [SEP] [SEP] without a
label, a blank. (`text` makes other sequences of these.)

Example:
    sequences = lay_out(blocks, samples, special)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.samples import Samples
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.shards import Block

SPECIALS_A_PAIR = 3
BLANK_A_END = 2
# The label of a pair that has none; PyTorch's cross-entropy passes over it.
IGNORED = -100


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """Sequences laid end to end, in the order in which they are trained on: [CLS] A [SEP] B [SEP], or [CLS] … [SEP].

    tokens: ids as narrow as the shards hold them (T)
    starts: int64 (B + 1), where each begins, and the end of the last
    a_ends: int32 (B), tokens of [CLS] A [SEP]: where segment B begins inside its sequence, or the sequence ends
    next_labels: int8 (B), 1 where B is a random next (or the segments are swapped), else 0; IGNORED where there is no
        label, as where the pair is lost
    samples, epochs: int64 (B), the pair that a sequence is, or begins in; a sample of −1 counts nowhere
    continues: bool (T), tokens that continue the word before them; None where the vocabulary's `##` pieces say it
    """

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    a_ends: NDArray[np.int32]
    next_labels: NDArray[np.int8]
    samples: NDArray[np.int64]
    epochs: NDArray[np.int64]
    continues: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.a_ends)

    @property
    def is_blank(self) -> NDArray[np.bool_]:
        """Which are [CLS] [SEP] [SEP]: lost pairs, and what fills a micro-batch that has nothing else (B)."""
        is_blank: NDArray[np.bool_] = self.a_ends == BLANK_A_END
        return is_blank

    def take(self, first: int, last: int) -> "Sequences":
        """Sequences first … last − 1, copying no token."""
        begin, end = self.starts[first], self.starts[last]
        return Sequences(
            tokens=self.tokens[begin:end],
            starts=self.starts[first : last + 1] - begin,
            a_ends=self.a_ends[first:last],
            next_labels=self.next_labels[first:last],
            samples=self.samples[first:last],
            epochs=self.epochs[first:last],
            continues=None if self.continues is None else self.continues[begin:end],
        )


def join(parts: Sequence[Sequences], special: SpecialIds) -> Sequences:
    """The sequences of several parts, in order."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0] + [len(part.tokens) for part in parts])
    starts = [part.starts[1:] + end for part, end in zip(parts, ends, strict=False)]
    return Sequences(
        tokens=np.concatenate([part.tokens for part in parts]),
        starts=np.concatenate([ends[:1], *starts]),
        a_ends=np.concatenate([part.a_ends for part in parts]),
        next_labels=np.concatenate([part.next_labels for part in parts]),
        samples=np.concatenate([part.samples for part in parts]),
        epochs=np.concatenate([part.epochs for part in parts]),
        continues=_joined_flags(parts, special),
    )


def _joined_flags(parts: Sequence[Sequences | Block], special: SpecialIds) -> NDArray[np.bool_] | None:
    """Which tokens of several parts continue a word; None where the `##` pieces say it of all.

    In a mixture, shards with words of their own may stand beside others without.
    """
    if all(part.continues is None for part in parts):
        return None
    return np.concatenate(
        [special.is_continuing[part.tokens] if part.continues is None else part.continues for part in parts]
    )


def lay_out(blocks: Sequence[Block], samples: Samples, special: SpecialIds) -> Sequences:
    """The sequences of `samples`, whose `slot` counts in `blocks`."""
    lengths = np.concatenate([block.lengths for block in blocks])
    begins = np.cumsum(lengths) - lengths
    pair = np.cumsum([0] + [len(block) for block in blocks])[samples.slot] + samples.row
    # One token to spare: where all blocks are lost there is none to take from.
    tokens = np.concatenate([*(block.tokens for block in blocks), np.zeros(1, blocks[0].tokens.dtype)])
    a_lengths = np.concatenate([block.a_lengths for block in blocks])[pair].astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths[pair] + SPECIALS_A_PAIR)])
    # Each output place takes the token at its own index plus a shift, one shift for [CLS] A [SEP] and one for
    # B [SEP]; the places of special tokens take a neighbour's (`clip` for the very first and last) and are
    # then overwritten.
    shifts = np.repeat(begins[pair] - starts[:-1] - 1, 2)
    shifts[1::2] -= 1
    runs = np.empty(2 * len(pair), np.int64)
    runs[0::2] = a_lengths + 2
    runs[1::2] = np.diff(starts) - runs[0::2]
    places = np.repeat(shifts, runs)
    places += np.arange(len(places))
    laid = tokens.take(places, mode="clip")
    if special.size - 1 > np.iinfo(laid.dtype).max:
        laid = laid.astype(np.uint32)
    a_ends = runs[0::2]
    laid[starts[:-1]] = special.cls_id
    separators = np.concatenate([starts[:-1] + a_ends - 1, starts[1:] - 1])
    laid[separators] = special.sep_id
    if (continues := _joined_flags(blocks, special)) is not None:
        continues = np.append(continues, False).take(places, mode="clip")
        continues[starts[:-1]] = continues[separators] = False
    next_labels = np.concatenate([block.random_next for block in blocks])[pair].astype(np.int8)
    next_labels[lengths[pair] == 0] = IGNORED  # lost
    return Sequences(
        tokens=laid,
        starts=starts,
        a_ends=a_ends.astype(np.int32),
        next_labels=next_labels,
        samples=samples.sample,
        epochs=samples.epoch,
        continues=continues,
    )


def blanks(count: int, special: SpecialIds) -> Sequences:
    """Sequences that count nowhere, for micro-batches that would be empty: ranks call the network equally often."""
    return Sequences(
        tokens=np.tile(np.array([special.cls_id, special.sep_id, special.sep_id], np.uint32), count),
        starts=np.arange(count + 1) * SPECIALS_A_PAIR,
        a_ends=np.full(count, BLANK_A_END, np.int32),
        next_labels=np.full(count, IGNORED, np.int8),
        samples=np.full(count, -1),
        epochs=np.zeros(count, np.int64),
    )
