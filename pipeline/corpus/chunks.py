"""Chunks: what a pair would be made of, for every sentence that one might begin at.

In: the partition's sentences and documents, and the options. Out: for each sentence, where a chunk that begins there
ends, how it would be divided, and the draw that would label it. What always holds: a chunk's draws are a function of
(seed, document's hash, copy, sentence's place in its document), so that it doesn't matter in which order chunks are
come to, or how often a walk is rehearsed (`balance`); everything is computed for all sentences at once.

As published (Devlin et al. 2018, appendix A.2, and its code): a chunk is as many sentences as reach the target
length, or the rest of the document; segment A is one sentence of it or more, and at least one is left for B.

Example:
    chunks = chunks_of(partition, options, copy=0)
    chunks.ends[first], chunks.splits[first]  # [first, split) is segment A, [split, end) an actual-next B
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline import counter_random
from pipeline.corpus.partition import Partition

SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
_SHORTEST_TARGET = 2  # tokens: one for each segment


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """What decides the pairs beside the documents."""

    max_seq_length: int
    """Tokens of the longest sequence, its three special tokens included."""

    short_seq_prob: float = 0.1
    """Share of documents that get a shorter target length, drawn uniformly."""

    seed: int = 0

    copies: int = 1
    """Sets of pairs that each document gives, each drawn anew."""

    @property
    def longest(self) -> int:
        """Tokens of the longest pair, special tokens not counted."""
        return self.max_seq_length - SPECIAL_TOKENS


class Draw(IntEnum):
    """What is drawn, one number each; the last three once for each sentence that a pair may begin at."""

    SHORT = 0
    TARGET = 1
    SPLIT = 2
    LABEL = 3
    OTHER_DOCUMENT = 4
    OTHER_SENTENCE = 5
    CUT_A = 6
    CUT_B = 7


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Uniform bits for the sentences and documents of a partition, one copy's.

    prefixes: a key for each kind of draw
    documents: uint64 (documents), hashes
    owners, places: int64 (sentences), the document of each sentence and its place therein
    """

    prefixes: tuple[int, ...]
    documents: NDArray[np.uint64]
    owners: NDArray[np.int64]
    places: NDArray[np.int64]

    def of_documents(self, what: Draw) -> NDArray[np.uint64]:
        """64 bits for each document."""
        return counter_random.draw(self.prefixes[what], self.documents)

    def of_sentences(self, what: Draw, sentences: NDArray[np.int64], number: int = 0) -> NDArray[np.uint64]:
        """64 bits for each of `sentences`, the `number`-th such draw."""
        keys = self.of_documents(what)[self.owners[sentences]]
        return counter_random.draw(keys, self.places[sentences] + (number << 32))


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """For each sentence of a partition, the chunk that begins there.

    targets: int64 (documents), the length in tokens that chunks are to reach
    ends: int64 (sentences), one past the chunk's last sentence
    splits: int64 (sentences), one past segment A's last sentence; `ends` where the chunk is one sentence
    labels: float64 (sentences), uniform in [0, 1): random-next where below the chance
    """

    draws: Draws
    targets: NDArray[np.int64]
    ends: NDArray[np.int64]
    splits: NDArray[np.int64]
    labels: NDArray[np.float64]


def chunks_of(partition: Partition, options: PairOptions, copy: int) -> Chunks:
    """The chunks of one copy of the partition."""
    firsts, offsets = partition.document_offsets, partition.sentence_offsets
    owners = np.repeat(np.arange(len(partition)), np.diff(firsts))
    sentences = np.arange(len(owners))
    draws = Draws(
        prefixes=tuple(counter_random.key(options.seed, copy, what) for what in Draw),
        documents=partition.document_hashes,
        owners=owners,
        places=sentences - firsts[owners],
    )
    short = counter_random.unit(draws.of_documents(Draw.SHORT)) < options.short_seq_prob
    lengths = np.full(len(partition), options.longest - _SHORTEST_TARGET + 1)
    drawn = _SHORTEST_TARGET + counter_random.below(draws.of_documents(Draw.TARGET), lengths)
    targets = np.where(short, drawn, options.longest)
    ends = reach(offsets, sentences, targets[owners], firsts[owners + 1])
    # One of the chunk's sentences or more, and all but one at most.
    choices = np.maximum(ends - sentences - 1, 1)
    splits = sentences + 1 + counter_random.below(draws.of_sentences(Draw.SPLIT, sentences), choices)
    labels = counter_random.unit(draws.of_sentences(Draw.LABEL, sentences))
    return Chunks(draws=draws, targets=targets, ends=ends, splits=splits, labels=labels)


def reach(
    offsets: NDArray[np.int64],
    sentences: NDArray[np.int64],
    tokens: NDArray[np.int64],
    limits: NDArray[np.int64],
) -> NDArray[np.int64]:
    """One past the last of the sentences that, from each of `sentences` on, come to so many tokens.

    At least one sentence, and none from `limits` on.
    """
    ends = np.searchsorted(offsets, offsets[sentences] + tokens, side="left")
    return np.minimum(np.maximum(ends, sentences + 1), limits)
