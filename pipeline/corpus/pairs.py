"""Documents → pairs of segments with next-sentence labels (Devlin et al. 2018, appendix A.2).

In: a partition, that is tokenised documents laid end to end, ordered by hash. Out: all its pairs as one
block, shuffled, and counts of how they came about. Pure: no files, no state, no generator but the counter.

What always holds: both segments have a token and together fit the sequence; a random-next segment B comes
from a document with another 64-bit hash; an actual-next B stands right after A (up to what truncation cut);
every sentence is in some segment A or actual-next B before truncation; the pairs are a function of the
partition, the options and the shuffle's key; pairs are shuffled over the partition and so dealt that any few
neighbours have nearly their share of its tokens (`dealing`): ranks and micro-batches wait for the
longest among them.

Two departures from the published code, both for the labels' sake: the other document is drawn among the
others only (the code redraws ten times, then accepts the same document), and the chance of a random-next B
is set so that, with the chunks that have no choice, the labels balance (`balance`).

A segment is a range [start, stop) of the partition's tokens; the tokens are gathered at the end. How documents are
cut into chunks stands in `chunks`.

Example:
    block, counts = build_pairs(partition, PairOptions(max_seq_length=128, seed=1), shuffle_key=key(1))
"""

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from pipeline import counter_random
from pipeline.corpus.balance import Walk, balanced_walk
from pipeline.corpus.chunks import SPECIAL_TOKENS, Chunks, Draw, PairOptions, chunks_of, reach
from pipeline.corpus.partition import Partition
from pipeline.corpus.ragged import gather, starts_of
from pipeline.corpus.shards import Block
from pipeline.dealing import deal

__all__ = ["SPECIAL_TOKENS", "PairCounts", "PairOptions", "Partition", "build_pairs"]

_BITS = 64


@dataclass(kw_only=True)
class PairCounts:
    """How pairs came about; of several partitions by `merge`.

    documents, sentences: each once, however many copies give pairs
    forced: pairs that are random-next because their chunk is one sentence
    short_documents, short_pairs: those with a target below the longest, of all copies
    sets: copies of all documents that gave pairs
    sources: by the number of a source, its documents, and the pairs and tokens whose segment A is of it
    """

    documents: int = 0
    sentences: int = 0
    pairs: int = 0
    tokens: int = 0
    random_next: int = 0
    forced: int = 0
    short_documents: int = 0
    short_pairs: int = 0
    sets: int = 0
    sources: dict[str, list[int]] = field(default_factory=dict)

    def merge(self, other: "PairCounts") -> None:
        """Count in another partition's."""
        for each in fields(self):
            if each.name != "sources":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        for source, counts in other.sources.items():
            mine = self.sources.get(source, [0] * len(counts))
            self.sources[source] = [one + more for one, more in zip(mine, counts, strict=True)]


@dataclass(frozen=True, kw_only=True)
class _Segments:
    """Pairs before their tokens are gathered, a row of each array a pair (int64 where nothing else is said).

    a, b: (pairs, 2), where each segment's tokens start and stop
    document_a, document_b: the places of their documents in the partition
    random_next, forced, short: bool
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    document_a: NDArray[np.int64]
    document_b: NDArray[np.int64]
    random_next: NDArray[np.bool_]
    forced: NDArray[np.bool_]
    short: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64]) -> "_Segments":
        """Some of the pairs, in another order."""
        return _Segments(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


def build_pairs(partition: Partition, options: PairOptions, *, shuffle_key: int) -> tuple[Block, PairCounts]:
    """All pairs of `partition` in the order that `shuffle_key` gives them, and their counts.

    Raises ValueError where the partition holds documents but not two different ones.
    """
    sets = partition.document_copies.astype(np.int64) * options.copies
    copies = [_segments(partition, options, copy, sets > copy) for copy in range(max(1, sets.max(initial=0)))]
    short_documents = sum(len(np.unique(copy.document_a[copy.short])) for copy in copies)
    pairs = _shuffled(_joined(copies), shuffle_key)
    bounds = np.stack([pairs.a, pairs.b], 1).reshape(-1, 2)
    starts, stops = bounds[:, 0], bounds[:, 1]
    tokens = gather(partition.tokens, starts, stops)
    continues = None
    if partition.continues is not None:
        continues = gather(partition.continues, starts, stops)
        # A segment that is cut in the middle of a word begins one there.
        continues[starts_of(stops - starts)[:-1]] = False
    block = Block(
        tokens=tokens,
        offsets=starts_of(stops - starts)[::2],
        a_lengths=_lengths(pairs.a).astype(np.uint16),
        random_next=pairs.random_next,
        document_a=partition.document_hashes[pairs.document_a],
        document_b=partition.document_hashes[pairs.document_b],
        continues=continues,
    )
    counts = PairCounts(
        documents=len(partition),
        sentences=len(partition.sentence_offsets) - 1,
        pairs=len(block),
        tokens=len(tokens),
        random_next=int(pairs.random_next.sum()),
        forced=int(pairs.forced.sum()),
        short_documents=short_documents,
        short_pairs=int(pairs.short.sum()),
        sets=int(sets.sum()),
        sources=_by_source(partition, pairs.document_a, block.lengths),
    )
    return block, counts


def _by_source(
    partition: Partition, document_a: NDArray[np.int64], lengths: NDArray[np.int64]
) -> dict[str, list[int]]:
    sources = partition.document_sources
    documents = np.bincount(sources)
    pairs = np.bincount(sources[document_a], minlength=len(documents))
    tokens = np.bincount(sources[document_a], lengths, minlength=len(documents)).astype(np.int64)
    found = np.flatnonzero(documents)
    columns = np.stack([documents, pairs, tokens], 1)[found].tolist()
    return dict(zip(map(str, found.tolist()), columns, strict=True))


def _joined(copies: list[_Segments]) -> _Segments:
    return _Segments(
        **{
            each.name: np.concatenate([getattr(copy, each.name) for copy in copies])
            for each in fields(_Segments)
        }
    )


def _shuffled(pairs: _Segments, shuffle_key: int) -> _Segments:
    """The pairs in the order in which they are cut into blocks."""
    # A book's pairs come in a row; shuffled over the partition, a block is a sample of it.
    order = counter_random.permutation(shuffle_key, len(pairs.a))
    # Over the partition, not block by block: so blocks are equally heavy too. They begin at multiples of the strata.
    return pairs.take(order[deal((_lengths(pairs.a) + _lengths(pairs.b))[order])])


def _lengths(ranges: NDArray[np.int64]) -> NDArray[np.int64]:
    return ranges[:, 1] - ranges[:, 0]


def _segments(partition: Partition, options: PairOptions, copy: int, chosen: NDArray[np.bool_]) -> _Segments:
    """One copy's pairs, of the documents `chosen`, one after the other; each copy is balanced for itself."""
    chunks, offsets = chunks_of(partition, options, copy), partition.document_offsets
    walk = balanced_walk(chunks, offsets[:-1][chosen], offsets[1:][chosen])
    pairs = _untruncated(partition, chunks, walk)
    a, b = _truncate(chunks, walk.sentences, pairs.a, pairs.b, options.longest)
    short = chunks.targets[pairs.document_a] < options.longest
    return _Segments(**(vars(pairs) | {"a": a, "b": b, "short": short}))


def _untruncated(partition: Partition, chunks: Chunks, walk: Walk) -> _Segments:
    """The pairs of a walk, with segments as long as their sentences."""
    offsets, first = partition.sentence_offsets, walk.sentences
    split, end = chunks.splits[first], chunks.ends[first]
    a = np.stack([offsets[first], offsets[split]], 1)
    document_a = chunks.draws.owners[first]
    document_b, b_sentences = document_a.copy(), np.stack([split, end], 1)
    rows = np.flatnonzero(walk.random_next)
    document_b[rows], b_sentences[rows] = _from_elsewhere(
        partition, chunks, first[rows], chunks.targets[document_a[rows]] - _lengths(a[rows])
    )
    return _Segments(
        a=a,
        b=offsets[b_sentences],
        document_a=document_a,
        document_b=document_b,
        random_next=walk.random_next,
        forced=split == end,
        short=np.zeros(len(first), np.bool_),
    )


def _from_elsewhere(
    partition: Partition, chunks: Chunks, sentences: NDArray[np.int64], targets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For pairs that begin at `sentences`, another document and sentences [first, last) of it that reach `targets`.

    The document is drawn evenly among those with another hash, the first sentence among that document's.
    """
    draws, hashes, firsts = chunks.draws, partition.document_hashes, partition.document_offsets
    own = hashes[draws.owners[sentences]]
    # The range of documents that share its 64-bit hash.
    low, high = np.searchsorted(hashes, own, side="left"), np.searchsorted(hashes, own, side="right")
    others = len(partition) - (high - low)
    if not others.all():
        raise ValueError("a random next segment needs a second document in the partition")
    documents = counter_random.below(draws.of_sentences(Draw.OTHER_DOCUMENT, sentences), others)
    documents += np.where(documents < low, 0, high - low)
    first, last = firsts[documents], firsts[documents + 1]
    begin = first + counter_random.below(draws.of_sentences(Draw.OTHER_SENTENCE, sentences), last - first)
    return documents, np.stack([begin, reach(partition.sentence_offsets, begin, targets, last)], 1)


def _truncate(
    chunks: Chunks,
    sentences: NDArray[np.int64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    longest: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A's and B's ranges cut to `longest` tokens together, for pairs that begin at `sentences`.

    As published: while too long, the longer segment (B where equal) loses a token, at either end by a fair
    coin. How many each loses is arithmetic, and how many of those at the front is binomial: drawn as such.
    """
    a_lengths, b_lengths = _lengths(a), _lengths(b)
    excess = np.maximum(a_lengths + b_lengths - longest, 0)
    level = np.minimum(excess, np.abs(a_lengths - b_lengths))  # until both are of one length
    from_a = np.where(a_lengths > b_lengths, level, 0) + (excess - level) // 2
    cut = []
    for ranges, removed, what in ((a, from_a, Draw.CUT_A), (b, excess - from_a, Draw.CUT_B)):
        front = _heads(chunks, what, sentences, removed)
        cut.append(ranges + np.stack([front, front - removed], 1))
    return cut[0], cut[1]


def _heads(
    chunks: Chunks, what: Draw, sentences: NDArray[np.int64], coins: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each of `sentences`, how many of so many fair coins show heads."""
    heads = np.zeros(len(coins), np.int64)
    left, number = np.flatnonzero(coins), 0
    while len(left):
        counted = np.minimum(coins[left] - number * _BITS, _BITS)
        bits = chunks.draws.of_sentences(what, sentences[left], number) >> (_BITS - counted).astype(np.uint64)
        heads[left] += np.bitwise_count(bits)
        number += 1
        left = left[coins[left] > number * _BITS]
    return heads
