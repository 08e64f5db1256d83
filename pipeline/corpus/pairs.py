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
is set so that, with the chunks that have no choice, the labels balance (`Balance`).

A segment is a range [start, stop) of the partition's tokens, so that walking costs a few integers a pair;
the tokens are gathered at the end.

Example:
    block, counts = build_pairs(partition, PairOptions(max_seq_length=128, seed=1), shuffle_key=key(1))
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import counter_random
from pipeline.corpus.balance import REHEARSALS, Balance
from pipeline.corpus.shards import Block
from pipeline.dealing import deal

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


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Tokenised documents, ascending by hash.

    tokens: uint16 or uint32, all documents laid end to end
    sentence_offsets: int64 (sentences + 1), where each sentence's tokens start; no sentence is empty
    document_offsets: int64 (documents + 1), each document's first sentence; no document is empty
    document_hashes: uint64 (documents), the upper half of each document's hash
    continues: bool (tokens), those that continue the word before them; None where words are not wanted
    """

    tokens: NDArray[Any]
    sentence_offsets: NDArray[np.int64]
    document_offsets: NDArray[np.int64]
    document_hashes: NDArray[np.uint64]
    continues: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.document_hashes)


@dataclass(kw_only=True)
class PairCounts:
    """How pairs came about; of several partitions by `merge`.

    documents, sentences: each once, however many copies give pairs
    forced: pairs that are random-next because their chunk is one sentence
    short_documents, short_pairs: those with a target below the longest, of all copies
    """

    documents: int = 0
    sentences: int = 0
    pairs: int = 0
    tokens: int = 0
    random_next: int = 0
    forced: int = 0
    short_documents: int = 0
    short_pairs: int = 0

    def merge(self, other: "PairCounts") -> None:
        """Count in another partition's."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Draft(NamedTuple):
    """A pair before its tokens are gathered: ranges of tokens, and its documents' places."""

    a_start: int
    a_stop: int
    b_start: int
    b_stop: int
    random_next: bool
    document_a: int
    document_b: int
    forced: bool
    short: bool


_DOCUMENT_A = Draft._fields.index("document_a")


def gather(flat: NDArray[Any], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[Any]:
    """The ranges [start, stop) of `flat`, laid end to end."""
    # Slices joined in one call: for segments of some sixty tokens faster than an index of every token, and
    # without its eight bytes a token.
    pieces = [flat[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    return np.concatenate(pieces) if pieces else flat[:0]


def starts_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Where each of the pieces laid end to end starts, and where the last one stops (n + 1)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def build_pairs(partition: Partition, options: PairOptions, *, shuffle_key: int) -> tuple[Block, PairCounts]:
    """All pairs of `partition` in the order that `shuffle_key` gives them, and their counts.

    Raises ValueError where the partition holds documents but not two different ones.
    """
    copies = [_columns(partition, options, copy) for copy in range(options.copies)]
    short_documents = sum(len(np.unique(columns[columns[:, -1] > 0, _DOCUMENT_A])) for columns in copies)
    columns = _shuffled(np.concatenate(copies), shuffle_key)
    a_start, a_stop, b_start, b_stop, random_next, document_a, document_b, forced, short = columns.T
    starts, stops = np.stack([a_start, b_start], 1).ravel(), np.stack([a_stop, b_stop], 1).ravel()
    tokens = gather(partition.tokens, starts, stops)
    continues = None
    if partition.continues is not None:
        continues = gather(partition.continues, starts, stops)
        # A segment that is cut in the middle of a word begins one there.
        continues[starts_of(stops - starts)[:-1]] = False
    block = Block(
        tokens=tokens,
        offsets=starts_of((a_stop - a_start) + (b_stop - b_start)),
        a_lengths=(a_stop - a_start).astype(np.uint16),
        random_next=random_next.astype(np.bool_),
        document_a=partition.document_hashes[document_a],
        document_b=partition.document_hashes[document_b],
        continues=continues,
    )
    counts = PairCounts(
        documents=len(partition),
        sentences=len(partition.sentence_offsets) - 1,
        pairs=len(block),
        tokens=len(tokens),
        random_next=int(random_next.sum()),
        forced=int(forced.sum()),
        short_documents=short_documents,
        short_pairs=int(short.sum()),
    )
    return block, counts


def _shuffled(columns: NDArray[np.int64], shuffle_key: int) -> NDArray[np.int64]:
    """The rows of drafts in the order in which they are cut into blocks."""
    # A book's pairs come in a row; shuffled over the partition, a block is a sample of it.
    columns = columns[counter_random.permutation(shuffle_key, len(columns))]
    a_start, a_stop, b_start, b_stop = columns.T[:4]
    # Over the partition, not block by block: so blocks are equally heavy too. They begin at multiples of the strata.
    return columns[deal((a_stop - a_start) + (b_stop - b_start))]


def _columns(partition: Partition, options: PairOptions, copy: int) -> NDArray[np.int64]:
    """One copy's drafts as rows; each copy is balanced for itself."""
    balance = Balance()
    for _ in range(REHEARSALS):
        for _ in walk(partition, options, balance, copy):
            pass
        balance = Balance(balance.met)
    drafts = list(walk(partition, options, balance, copy))
    return np.array(drafts, dtype=np.int64).reshape(len(drafts), len(Draft._fields))


def walk(partition: Partition, options: PairOptions, balance: Balance, copy: int = 0) -> Iterator[Draft]:
    """The pairs of one copy of the partition, document by document, with labels as `balance` steers them."""
    longest = options.max_seq_length - SPECIAL_TOKENS
    hashes = partition.document_hashes.tolist()
    firsts = partition.document_offsets.tolist()  # of each document, its first sentence
    offsets = partition.sentence_offsets.tolist()  # of each sentence, its first token
    for document, document_hash in enumerate(hashes):
        balance.begin(document)
        stream = counter_random.Stream(counter_random.key(options.seed, document_hash, copy))
        target = longest
        if stream.unit() < options.short_seq_prob:
            target = stream.between(_SHORTEST_TARGET, longest)
        same = _same_hash(hashes, document)
        sentence, end = firsts[document], firsts[document + 1]
        while sentence < end:
            # The chunk: sentences up to the target length, or to the document's end.
            chunk_end = bisect_left(offsets, offsets[sentence] + target, sentence + 1, end)
            forced = chunk_end - sentence == 1
            a_end = sentence + 1 if forced else stream.between(sentence + 1, chunk_end - 1)
            random_next = forced or stream.unit() < balance.probability()
            if random_next:
                other = _another(stream, len(hashes), same)
                b_first = stream.between(firsts[other], firsts[other + 1] - 1)
                b_target = target - (offsets[a_end] - offsets[sentence])
                b_end = bisect_left(offsets, offsets[b_first] + b_target, b_first + 1, firsts[other + 1])
                following = a_end  # what A left of the chunk is put back
            else:
                other, b_first, b_end, following = document, a_end, chunk_end, chunk_end
            balance.count(random_next, forced)
            a, b = (offsets[sentence], offsets[a_end]), (offsets[b_first], offsets[b_end])
            yield Draft(
                *_truncate(stream, a, b, longest),
                random_next,
                document,
                other,
                forced,
                target < longest,
            )
            sentence = following


def _same_hash(hashes: list[int], document: int) -> tuple[int, int]:
    """The range of documents that share this one's 64-bit hash, itself included."""
    first, last = document, document + 1
    while first and hashes[first - 1] == hashes[document]:
        first -= 1
    while last < len(hashes) and hashes[last] == hashes[document]:
        last += 1
    return first, last


def _another(stream: counter_random.Stream, documents: int, same: tuple[int, int]) -> int:
    """A document drawn uniformly among those outside the range `same`."""
    others = documents - (same[1] - same[0])
    if not others:
        raise ValueError("a random next segment needs a second document in the partition")
    drawn = stream.below(others)
    return drawn if drawn < same[0] else drawn + same[1] - same[0]


def _truncate(
    stream: counter_random.Stream, a: tuple[int, int], b: tuple[int, int], longest: int
) -> tuple[int, int, int, int]:
    """A's and B's ranges cut to `longest` tokens together.

    As published: while too long, the longer segment (B where equal) loses a token, at either end by a fair
    coin. How many each loses is arithmetic, and how many of those at the front is binomial: drawn as such.
    """
    a_length, b_length = a[1] - a[0], b[1] - b[0]
    excess = a_length + b_length - longest
    if excess <= 0:
        return (*a, *b)
    level = min(excess, abs(a_length - b_length))  # until both are of one length
    from_a = (level if a_length > b_length else 0) + (excess - level) // 2
    from_b = excess - from_a
    a_front, b_front = _heads(stream, from_a), _heads(stream, from_b)
    return a[0] + a_front, a[1] - (from_a - a_front), b[0] + b_front, b[1] - (from_b - b_front)


def _heads(stream: counter_random.Stream, coins: int) -> int:
    """How many of so many fair coins show heads."""
    heads = 0
    while coins > 0:
        heads += (stream.bits() & ((1 << min(coins, 64)) - 1)).bit_count()
        coins -= 64
    return heads
