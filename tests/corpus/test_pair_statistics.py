"""Pairs are distributed as the published algorithm's on the same documents, within sampling error.

How each comparison is made: both sides pair the same documents some times over, with other draws each time. Of each
document and time the difference is taken between what the one side's pairs add to a histogram, beyond their share
of it, and what the other's add. By the hypothesis these are independent with mean zero, whatever the documents are
like and however much the pairs of one document have in common (its target, its sentences). Their sum, squared and
held against their own covariance, then has a chi-square distribution. Each comparison raises a false alarm in one of
10,000 draws of the seeds, all of a test's together in one of 800 at most; the seeds are fixed.

By design labels are 50 % random-next instead of some 55 %: the reference draws with the chance that ours came to.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.corpus import pairs as pairs_module
from pipeline.corpus.balance import balanced_walk
from pipeline.corpus.chunks import PairOptions, chunks_of
from pipeline.corpus.readers import ReadOptions, read_documents
from pipeline.corpus.sentences import segment
from pipeline.corpus.splits import find_splits
from pipeline.corpus.tokens import Encoder
from pipeline.corpus.vocabulary import Vocabulary
from workshop.partitions import Lengths, english_lengths, load_part, partition_of

MAX_SEQ_LENGTH = 128
TIMES = 3
BINS = 8
REAL_DOCUMENTS = 500
FALSE_ALARM = 3.719  # standard deviations of a normal: one in 10,000, on one side

_OTHERS = attrgetter("a_sentences", "b_sentences", "document", "random_next", "forced", "short")
COLUMNS = ("tokens", "tokens of A", "tokens of B", "sentences of A", "sentences of B")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """One side's pairs of one time, a row of each array a pair.

    values: (pairs, 5), what COLUMNS names
    document: the place of segment A's
    """

    values: NDArray[np.int64]
    document: NDArray[np.int64]
    random_next: NDArray[np.bool_]
    forced: NDArray[np.bool_]
    short: NDArray[np.bool_]


def ours(lengths: Lengths, options: PairOptions) -> Pairs:
    partition = partition_of(lengths)
    pairs = pairs_module._segments(partition, options, 0, np.ones(len(partition), np.bool_))
    chunks = chunks_of(partition, options, 0)
    walk = balanced_walk(chunks, partition.document_offsets[:-1], partition.document_offsets[1:])
    whole = pairs_module._untruncated(partition, chunks, walk)
    sentences = [
        np.diff(np.searchsorted(partition.sentence_offsets, each))[:, 0] for each in (whole.a, whole.b)
    ]
    tokens = [np.diff(each)[:, 0] for each in (pairs.a, pairs.b)]
    return Pairs(
        values=np.stack([sum(tokens), *tokens, *sentences], 1),
        document=pairs.document_a,
        random_next=pairs.random_next,
        forced=pairs.forced,
        short=pairs.short,
    )


def published(lengths: Lengths, draw: random.Random, random_share: float) -> Pairs:
    made = load_part("published_pairs").published_pairs(
        [[[0] * tokens for tokens in document] for document in lengths],
        MAX_SEQ_LENGTH,
        draw,
        random_share=random_share,
    )
    rows = np.array([[len(each.a), len(each.b), *_OTHERS(each)] for each in made])
    a, b, *sentences = rows[:, :4].T
    flags = rows[:, 5:].astype(np.bool_)
    return Pairs(
        values=np.stack([a + b, a, b, *sentences], 1),
        document=rows[:, 4],
        random_next=flags[:, 0],
        forced=flags[:, 1],
        short=flags[:, 2],
    )


def sides(lengths: Lengths, options: PairOptions) -> Iterator[tuple[Pairs, Pairs]]:
    """Ours and theirs of the same documents, TIMES times."""
    for time in range(TIMES):
        mine = ours(lengths, PairOptions(**vars(options) | {"seed": options.seed + time}))
        chance = (mine.random_next & ~mine.forced).sum() / (~mine.forced).sum()
        yield mine, published(lengths, random.Random(time), float(chance))


def differs(both: list[tuple[Pairs, Pairs]], documents: int, column: Any, given: Any) -> float:
    """How far two histograms lie apart: over 0 where further than chance leads to in one of 10,000.

    column, given: of Pairs, the values to be counted and the rows that count (bool)
    """
    of_all = np.concatenate([column(side)[given(side)] for pair in both for side in pair])
    edges = np.unique(np.quantile(of_all, np.linspace(0, 1, BINS + 1)[1:-1], method="nearest"))
    edges = edges[edges < of_all.max()]  # no bin is empty
    shares = np.bincount(np.searchsorted(edges, of_all, side="left"), minlength=len(edges) + 1) / len(of_all)
    rows = []
    for pair in both:
        beyond = []
        for side in pair:
            bins = np.searchsorted(edges, column(side)[given(side)], side="left")
            counts = np.zeros((documents, len(shares)))
            np.add.at(counts, (side.document[given(side)], bins), 1)
            beyond.append(counts - counts.sum(1, keepdims=True) * shares)
        rows.append(beyond[0] - beyond[1])
    units = np.concatenate(rows)[:, :-1]  # the last bin follows from the others
    total = units.sum(0)
    squared = float(total @ np.linalg.solve(units.T @ units, total))
    freedom = len(total)
    # Wilson and Hilferty's approximation to the chi-square distribution.
    return squared - freedom * (1 - 2 / (9 * freedom) + FALSE_ALARM * (2 / (9 * freedom)) ** 0.5) ** 3


def compare(lengths: Lengths, options: PairOptions) -> dict[str, float]:
    """By name, how far over what chance leads to."""
    both = list(sides(lengths, options))
    found = {}
    for label, name in ((False, "actual next"), (True, "random next")):

        def labelled(side: Pairs, label: bool = label) -> NDArray[np.bool_]:
            return side.random_next == label

        for place, column in enumerate(COLUMNS):
            found[f"{column}, {name}"] = differs(
                both, len(lengths), lambda side, place=place: side.values[:, place], labelled
            )
        found[f"short, {name}"] = differs(both, len(lengths), lambda side: side.short.astype(int), labelled)

    def every(side: Pairs) -> NDArray[np.bool_]:
        return np.ones(len(side.short), np.bool_)

    found["random next"] = differs(both, len(lengths), lambda side: side.random_next.astype(int), every)
    found["forced"] = differs(both, len(lengths), lambda side: side.forced.astype(int), every)
    return found


@pytest.fixture(scope="module")
def real_lengths(shared_data: Path) -> Lengths:
    """The sentence lengths of some documents of the shared corpus, by the real segmenter and Google's vocabulary."""
    words = (shared_data / "vocab" / "bert-base-uncased-vocab.txt").read_text(encoding="utf-8")
    encoder = Encoder(Vocabulary(tokens=tuple(words.splitlines()), cased=False))
    split = find_splits((str(shared_data / "english" / "jsonl" / "part-000.jsonl.gz"),))[0]
    texts = [document.text for document in islice(read_documents(split, ReadOptions()), REAL_DOCUMENTS)]
    found = [encoder.encode(segment(text, "en"))[1] for text in texts]
    return [lengths[lengths > 0].tolist() for lengths in found]


def test_pairs_of_real_text_are_distributed_as_published(real_lengths: Lengths) -> None:
    over = compare(real_lengths, PairOptions(max_seq_length=MAX_SEQ_LENGTH, seed=1))
    assert {name: by for name, by in over.items() if by > 0} == {}


def test_pairs_of_drawn_lengths_are_distributed_as_published() -> None:
    over = compare(english_lengths(900, 5), PairOptions(max_seq_length=MAX_SEQ_LENGTH, seed=2))
    assert {name: by for name, by in over.items() if by > 0} == {}


@pytest.mark.parametrize(
    ("departure", "shows"),
    [({"short_seq_prob": 0.2}, "short, actual next"), ({"max_seq_length": 126}, "tokens, actual next")],
)
def test_a_departure_from_the_published_algorithm_shows(departure: dict[str, Any], shows: str) -> None:
    options = {"max_seq_length": MAX_SEQ_LENGTH, "seed": 2} | departure
    assert compare(english_lengths(600, 5), PairOptions(**options))[shows] > 0
