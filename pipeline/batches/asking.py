"""What an objective asks of sequences: which tokens are to be guessed, and in which order the segments stand.

In: sequences and their keys. Out: the same sequences, perhaps with segments swapped, and what is to be guessed in
them. What always holds: it is a function of each sequence's own key and tokens; for next-sentence prediction the
sequences are left as they are.

Sources: masked tokens, see `masking`; the order of segments, Lan et al. 2019 (ALBERT, arXiv 1909.11942) §3.1: two
consecutive segments, or the same two swapped, half of each; next tokens, Radford et al. 2018.

Example:
    sequences, masked = ask(objective, sequences, keys, masking, special, sequence_length=128, rate=0.15)
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.mask_draws import GOLDEN, ORDER
from pipeline.batches.masking import Masked, MaskingConfig, mask_tokens
from pipeline.batches.sequences import IGNORED, Sequences
from pipeline.batches.special_ids import SpecialIds
from pipeline.counter_random import mix64
from pipeline.objectives import Objective


def ask(
    objective: Objective,
    sequences: Sequences,
    keys: NDArray[np.uint64],
    masking: MaskingConfig,
    special: SpecialIds,
    *,
    sequence_length: int,
    rate: float,
) -> tuple[Sequences, Masked]:
    """The sequences as the objective has them, and what is to be guessed.

    keys: one a sequence; sequence_length: of the phase; rate: of masked tokens, now
    """
    if objective.causal:
        return sequences, next_tokens(sequences)
    if objective.pair_label == "order":
        sequences = in_drawn_order(sequences, keys)
    masked = mask_tokens(
        sequences.tokens, sequences.starts, keys, masking, special, sequence_length, rate, sequences.continues
    )
    return sequences, masked


def most_asked(objective: Objective, masking: MaskingConfig, sequence_length: int) -> int:
    """The most tokens that are to be guessed in a sequence."""
    return sequence_length - 1 if objective.causal else masking.most(sequence_length)


def next_tokens(sequences: Sequences) -> Masked:
    """Nothing masked; at each token of a sequence but its last the next one is to be guessed, special ones too."""
    starts, blank = sequences.starts, sequences.is_blank
    lengths = np.diff(starts)
    asked = np.repeat(~blank, lengths)
    asked[starts[1:] - 1] = False
    places = np.flatnonzero(asked)
    seen = sequences.tokens.astype(np.int32)
    return Masked(
        tokens=seen,
        places=places,
        labels=seen[places + 1],
        counts=np.where(blank, 0, lengths - 1),
        short=np.zeros(len(lengths), np.int64),
    )


def in_drawn_order(sequences: Sequences, keys: NDArray[np.uint64]) -> Sequences:
    """Pairs whose B follows A, half of them swapped: [CLS] B [SEP] A [SEP], label 1; the others' label is 0.

    A random B has no order: such pairs stay as they are, without a label, as lost ones do.
    """
    follows = sequences.next_labels == 0
    swapped = follows & ((mix64((keys ^ ORDER) + GOLDEN) >> np.uint64(63)) == 1)
    lengths = np.diff(sequences.starts)
    # [CLS] B [SEP] where [CLS] A [SEP] was, and A [SEP] behind it: each place takes the token at its own index plus
    # a shift, one for either half.
    halves = np.where(swapped, lengths - sequences.a_ends + 1, sequences.a_ends)
    shifts = np.zeros(2 * len(sequences), np.int64)
    shifts[0::2] = np.where(swapped, sequences.a_ends - 1, 0)
    shifts[1::2] = np.where(swapped, 1 - halves, 0)
    runs = np.empty(2 * len(sequences), np.int64)
    runs[0::2], runs[1::2] = halves, lengths - halves
    places = np.arange(len(sequences.tokens)) + np.repeat(shifts, runs)
    places[sequences.starts[:-1]] = sequences.starts[:-1]  # [CLS] stays
    return replace(
        sequences,
        tokens=sequences.tokens[places],
        continues=None if sequences.continues is None else sequences.continues[places],
        a_ends=halves.astype(np.int32),
        next_labels=np.where(follows, swapped, IGNORED).astype(np.int8),
    )
