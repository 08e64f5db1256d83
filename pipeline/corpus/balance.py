"""The labels' balance: which chunks a partition is cut into, and which of them become random-next pairs.

In: the chunk that would begin at each sentence (`chunks`). Out: the sentences at which pairs begin, and their labels.
What always holds: chunks follow one another through each document, a random-next one giving back what its segment A
left; the random-next share of a partition ends within a pair or so of one half, unless more than half of its pairs
are random-next by force.

A chunk of one sentence has no next sentence, so it is random-next by force: about one in ten of English,
and all of a document whose drawn target is shorter than its sentences. Left alone, labels come to 55 %
random. With f the forced share of what is still to come, the others draw with p = (0.5 - f) / (1 - f), set
right at each pair by how far the labels so far are from one half. f can't be guessed from what is behind:
one book with a short target may be half of a small partition's forced pairs. So the walk is rehearsed. Its
chunks depend on the labels, as a random-next pair puts sentences back, so it is rehearsed twice: with a fixed
chance, and steered by what that met. Where half of the documents are of long sentences, one rehearsal counts
on free pairs that never come, and the labels end at 51.6 % random; two end at 50.0 %. Counting per document
keeps the differences that are left from adding up.

This is the one walk that goes from pair to pair; all else about pairs is done for all of them at once.

Example:
    walk = balanced_walk(chunks, partition.document_offsets[:-1], partition.document_offsets[1:])
    walk.sentences, walk.random_next
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.chunks import Chunks

_REHEARSALS = 2
# The chance for a forced share of one in ten; the first rehearsal's.
_REHEARSED = (0.5 - 0.1) / (1.0 - 0.1)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The pairs of a partition, in its documents' order.

    sentences: int64 (pairs), where each pair's chunk begins
    random_next: bool (pairs)
    """

    sentences: NDArray[np.int64]
    random_next: NDArray[np.bool_]


@dataclass(kw_only=True)
class _Met:
    """Of each document, the pairs that a walk met: random-next by force, and free to be either."""

    forced: list[int]
    free: list[int]


def balanced_walk(chunks: Chunks, firsts: NDArray[np.int64], stops: NDArray[np.int64]) -> Walk:
    """The walk through the documents whose sentences are [first, stop), in that order, whose labels balance."""
    # Lists, since they are looked at one by one: numpy's own numbers take five times as long.
    spans = list(zip(firsts.tolist(), stops.tolist(), strict=True))
    ends, splits, labels = chunks.ends.tolist(), chunks.splits.tolist(), chunks.labels.tolist()
    met: _Met | None = None
    for _ in range(1 + _REHEARSALS):
        sentences, random_next, met = _walk(spans, ends, splits, labels, met)
    return Walk(sentences=np.array(sentences, np.int64), random_next=np.array(random_next, np.bool_))


def _walk(
    spans: Sequence[tuple[int, int]],
    ends: Sequence[int],
    splits: Sequence[int],
    labels: Sequence[float],
    rehearsed: _Met | None,
) -> tuple[list[int], list[bool], _Met]:
    """The sentences at which pairs begin, their labels, and what the walk met.

    rehearsed: what the walk before this one met; None: this is the first one, with a fixed chance.
    """
    sentences: list[int] = []
    random_next: list[bool] = []
    met = _Met(forced=[], free=[])
    pairs = randoms = 0
    if rehearsed is not None:
        # What is to come from each document on, as the rehearsal met it.
        forced_from, free_from = _sums_from(rehearsed.forced), _sums_from(rehearsed.free)
    for document, (sentence, stop) in enumerate(spans):
        forced = free = 0
        while sentence < stop:
            end, split = ends[sentence], splits[sentence]
            sentences.append(sentence)
            if end == split:
                forced += 1
                label = True
            elif rehearsed is None:
                free += 1
                label = labels[sentence] < _REHEARSED
            else:
                # No less than what the documents behind this one bring, and this chunk.
                forced_left = forced_from[document] - forced
                if forced_left < forced_from[document + 1]:
                    forced_left = forced_from[document + 1]
                free_left = free_from[document] - free
                if free_left <= free_from[document + 1]:
                    free_left = free_from[document + 1] + 1
                wanted = (pairs + forced_left + free_left) / 2 - randoms - forced_left
                free += 1
                label = labels[sentence] * free_left < wanted
            random_next.append(label)
            pairs += 1
            randoms += label
            # What A left of a random-next pair's chunk is put back.
            sentence = split if label else end
        met.forced.append(forced)
        met.free.append(free)
    return sentences, random_next, met


def _sums_from(values: Sequence[int]) -> list[int]:
    """The sum of `values` from each place on, and 0 behind the last."""
    return [0, *accumulate(reversed(values))][::-1]
