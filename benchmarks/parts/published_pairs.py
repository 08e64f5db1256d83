"""The published way from sentences to pairs (Devlin et al. 2018, appendix A.2), written down as its code runs.

In: documents as lists of sentences, a sentence being a list of tokens of any kind. Out: the pairs, document after
document. What always holds: step for step what google-research/bert's `create_pretraining_data.py` does, on lists
that are filled and popped token by token, with one generator for everything; masking, which comes after, is left
out. Nothing of `pipeline` is used: it is the authority that our pairs are held against, by tests and benchmarks.

Two arguments stand for constants of the published code: `random_share` (0.5 there), because our labels are balanced
and can be compared only at the chance that they are drawn with, and `short_seq_prob` (0.1).

Example:
    for pair in published_pairs([[["the", "cat"], ["it", "sat"]], [["a", "dog"]]], 128, random.Random(1)):
        print(pair.a, pair.b, pair.random_next)
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Tokens = list[Any]


@dataclass(frozen=True, slots=True)
class PublishedPair:
    """A pair after truncation, and how it came about.

    document: the place of segment A's document
    a_sentences, b_sentences: how many sentences each segment was made of, before truncation
    short: whether the document's target was below the longest
    """

    document: int
    a: Tokens
    b: Tokens
    a_sentences: int
    b_sentences: int
    random_next: bool
    forced: bool
    short: bool


def published_pairs(
    documents: Sequence[Sequence[Tokens]],
    max_seq_length: int,
    draw: random.Random,
    *,
    random_share: float = 0.5,
    short_seq_prob: float = 0.1,
) -> Iterator[PublishedPair]:
    """The pairs of all documents, in their order. No document and no sentence may be empty."""
    for index in range(len(documents)):
        yield from _pairs_of(documents, index, max_seq_length - 3, draw, random_share, short_seq_prob)


def _pairs_of(
    documents: Sequence[Sequence[Tokens]],
    index: int,
    longest: int,
    draw: random.Random,
    random_share: float,
    short_seq_prob: float,
) -> Iterator[PublishedPair]:
    document, target = documents[index], longest
    if draw.random() < short_seq_prob:
        target = draw.randint(2, longest)
    chunk: list[Tokens] = []
    length = place = 0
    while place < len(document):
        chunk.append(document[place])
        length += len(document[place])
        if place == len(document) - 1 or length >= target:
            split = draw.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
            a: Tokens = []
            for sentence in chunk[:split]:
                a.extend(sentence)
            b: Tokens = []
            b_sentences = 0
            random_next = len(chunk) == 1 or draw.random() < random_share
            if random_next:
                wanted = target - len(a)
                for _ in range(10):
                    other = draw.randint(0, len(documents) - 1)
                    if other != index:
                        break
                elsewhere = documents[other]
                for sentence in elsewhere[draw.randint(0, len(elsewhere) - 1) :]:
                    b.extend(sentence)
                    b_sentences += 1
                    if len(b) >= wanted:
                        break
                # What the chunk held behind A is put back.
                place -= len(chunk) - split
            else:
                for sentence in chunk[split:]:
                    b.extend(sentence)
                    b_sentences += 1
            _truncate(a, b, longest, draw)
            forced = len(chunk) == 1
            yield PublishedPair(index, a, b, split, b_sentences, random_next, forced, target < longest)
            chunk, length = [], 0
        place += 1


def _truncate(a: Tokens, b: Tokens, longest: int, draw: random.Random) -> None:
    while len(a) + len(b) > longest:
        longer = a if len(a) > len(b) else b
        if draw.random() < 0.5:
            del longer[0]
        else:
            longer.pop()
