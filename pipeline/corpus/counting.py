"""A corpus, counted: what a vocabulary learns from, and what it is measured on.

In: splits. Out: `Counts`: the corpus's fingerprint and letters, the strings of the text to learn from, and, apart by
group, those of the text held out. What always holds: each document falls on one side, by its content's hash alone, so
neither the order nor the names of files matter; equal documents fall on the same side; memory is bounded (see
`word_counts`).

The lowest hashes are learned from, all or as many as `max_bytes` allows; the highest hundredth is held out, never
learned from, and tells how well the vocabulary covers text that it hasn't seen. Of a small corpus, a hundredth is too
few documents to tell anything: then nothing is held out, and no text is lost (`Counts.unseen`).

A group is a source (what the user named: a file, a folder, a glob) and a script, which is told by the letters of a
document's beginning.

Example:
    with count_corpus(find_splits(["corpus/"]), ReadOptions()) as counts:
        words = counts.words(cased=False)  # Counter({'the': 310, …})
        measured = counts.held_out
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple, Self

from pipeline.corpus.casing import Letters, script_of
from pipeline.corpus.documents import Fingerprint, document_hash
from pipeline.corpus.readers import ReadOptions, Split, read_documents
from pipeline.corpus.word_counts import RAW_LIMIT, RawCounts, bert_words
from pipeline.errors import InputError
from pipeline.progress import Progress

HELD_OUT = 0.01
"""Share of the documents that a vocabulary is measured on instead of learning from them."""

LEAST_HELD_OUT = 16
"""Documents that are worth a measurement; corpora have them from about 1,600 documents on."""

# Choosing whole ranges of the hash keeps memory fixed whatever the number of documents, and misses `max_bytes` by
# less than a range, 1/65,536 of the corpus (or a document).
_RANGES = 1 << 16
_LEAST_STRINGS = 10_000  # that a group holds in memory, however many groups there are


class Group(NamedTuple):
    """What measurements are told apart by."""

    source: str
    script: str


class GroupCounts:
    """Strings between white space, counted apart by group; a context manager, as `RawCounts` is.

    sources: how many there will be; they share the memory that `RawCounts` takes
    """

    def __init__(self, sources: int = 1) -> None:
        self.documents: Counter[Group] = Counter()
        self._limit = max(_LEAST_STRINGS, RAW_LIMIT // max(1, sources))
        self._counts: dict[Group, RawCounts] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, source: str, text: str) -> None:
        """Count a document in."""
        group = Group(source, script_of(text))
        if group not in self._counts:
            self._counts[group] = self._open.enter_context(RawCounts(self._limit))
        self._counts[group].add(text)
        self.documents[group] += 1

    def of(self, group: Group) -> Iterator[tuple[str, int]]:
        """A group's distinct strings with their counts, in the order of code points."""
        return self._counts[group].sorted_items()


class Counts:
    """What `count_corpus` found; a context manager, because the strings may lie in temporary files.

    corpus: all documents; letters: of all documents; invalid: how many were "replaced" or "skipped" as no UTF-8
    learned, held_out: the strings of the two sides
    """

    def __init__(self, sources: int) -> None:
        self.corpus, self.letters, self.invalid = Fingerprint(), Letters(), Counter[str]()
        self.learned, self.held_out = RawCounts(), GroupCounts(sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.learned, self.held_out:
            pass

    def invalid_notices(self) -> list[str]:
        """What was done about broken UTF-8, a line each."""
        return [
            f"{what} as no UTF-8: {count:,} document{'s' if count > 1 else ''}"
            for what, count in sorted(self.invalid.items())
        ]

    @property
    def unseen(self) -> bool:
        """Whether enough documents are held out; otherwise `words` takes them, too."""
        return self.held_out.documents.total() >= LEAST_HELD_OUT

    def words(self, *, cased: bool) -> Counter[str]:
        """Counts of BERT's words to learn from; see `bert_words`."""
        sides = [self.learned.sorted_items()]
        if not self.unseen:
            sides += [self.held_out.of(group) for group in self.held_out.documents]
        return bert_words(heapq.merge(*sides), cased=cased)


def count_corpus(
    splits: Sequence[Split],
    options: ReadOptions,
    *,
    max_bytes: int | None = None,
    held_out: float = HELD_OUT,
) -> Counts:
    """Count the documents of `splits`, to be used as a context manager.

    max_bytes: UTF-8 bytes to learn from, whole documents; all is read twice then. None: all
    held_out: share of the documents that is held out; 1 to learn nothing, and measure all
    Raises InputError where a file can't be read, or `max_bytes` is less than any document.
    """
    counts = Counts(sources=len({split.source for split in splits}))
    try:
        _count(counts, splits, options, max_bytes, first_held_out=_RANGES - round(held_out * _RANGES))
    except BaseException:
        with counts:
            raise
    return counts


def _count(
    counts: Counts,
    splits: Sequence[Split],
    options: ReadOptions,
    max_bytes: int | None,
    *,
    first_held_out: int,
) -> None:
    lengths: Counter[int] = Counter()
    documents_held_out = 0
    for split, text in _texts(splits, options, "reading", counts.invalid):
        before = counts.corpus.bytes
        number = _range(counts.corpus.add(text)[0])
        counts.letters.add(text)
        if max_bytes is not None:
            lengths[number] += counts.corpus.bytes - before
            documents_held_out += number >= first_held_out
        elif number >= first_held_out:
            counts.held_out.add(split.source, text)
        else:
            counts.learned.add(text)
    if max_bytes is None or not lengths:
        return
    if documents_held_out < LEAST_HELD_OUT:
        first_held_out = _RANGES
    chosen = _lowest(lengths, max_bytes, first_held_out)
    for split, text in _texts(splits, options, "counting", Counter()):
        number = _range(document_hash(text)[0])
        if number in chosen:
            counts.learned.add(text)
        elif number >= first_held_out:
            counts.held_out.add(split.source, text)


def _texts(
    splits: Sequence[Split], options: ReadOptions, title: str, invalid: Counter[str]
) -> Iterator[tuple[Split, str]]:
    with Progress(title, total=len(splits), unit="splits") as progress:
        for split in splits:
            for document in read_documents(split, options):
                if document.invalid is not None:
                    invalid[document.invalid] += 1
                if document.text:
                    yield split, document.text
            progress.advance(note=split.path)


def _range(high: int) -> int:
    """The range that a hash lies in, by its upper 64 bits."""
    return high * _RANGES >> 64


def _lowest(lengths: Counter[int], max_bytes: int, end: int) -> frozenset[int]:
    """The lowest ranges below `end` that come to `max_bytes` at most."""
    chosen: list[int] = []
    left = max_bytes
    for number in sorted(number for number in lengths if number < end):
        left -= lengths[number]
        if left < 0:
            break
        chosen.append(number)
    if not chosen:
        least = lengths[min(lengths)]
        raise InputError(f"max_bytes is {max_bytes}; the first documents drawn take {least}, so give more")
    return frozenset(chosen)
