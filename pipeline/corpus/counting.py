"""A corpus, counted: what a vocabulary learns from, and what it is measured on.

In: sources and their splits. Out: `Counts`: what was seen of each source, the pieces of the text to learn from, and,
apart by group, those of the text held out. What always holds: each document falls on one side, by its content's hash
alone, so neither the order nor the names of files matter, nor how many processes count; equal documents fall on the
same side; text is as filters leave it, and counts as often as its source's weight says; memory is bounded (see
`word_counts`).

The lowest hashes are learned from, all or as many as `max_bytes` allows; the highest hundredth is held out, never
learned from, and tells how well the vocabulary covers text that it hasn't seen. Of a small corpus, a hundredth is too
few documents to tell anything: then nothing is held out, and no text is lost (`Counts.unseen`).

A group is a source (by its name, or without one what the user named: a file, a folder, a glob) and a script, which is
told by the letters of a document's beginning.

Example:
    with count_corpus(find_sources([Source(corpus=("corpus/",))])) as counts:
        words = counts.words(cased=False)  # Counter({'the': 310, …})
        measured = counts.held_out
"""

import heapq
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.bundles import Bundle, gather_bundles
from pipeline.corpus.casing import script_of
from pipeline.corpus.documents import utf8_length
from pipeline.corpus.executor import open_executor, run_tasks
from pipeline.corpus.pieces import piece_bytes
from pipeline.corpus.seen import Seen
from pipeline.corpus.sources import FoundSource, Source
from pipeline.corpus.word_counts import RAW_LIMIT, RawCounts, bert_words
from pipeline.errors import InputError
from pipeline.processes import available_cores
from pipeline.progress import Progress

HELD_OUT = 0.01
"""Share of the documents that a vocabulary is measured on instead of learning from them."""

LEAST_HELD_OUT = 16
"""Documents that are worth a measurement; corpora have them from about 1,600 documents on."""

# Choosing whole ranges of the hash keeps memory fixed whatever the number of documents, and misses `max_bytes` by
# less than a range, 1/65,536 of the corpus (or a document).
_RANGES = 1 << 16
_LEAST_STRINGS = 10_000  # that a group holds in memory, however many groups there are

# A worker holds the distinct pieces of a bundle: of text that hardly repeats any, half a gigabyte of so much.
_LARGEST_BUNDLE = 32 << 20
_WORKER_BYTES = 16 << 20  # a process takes half a second to start, in which another counts so much

Items = tuple[list[bytes], NDArray[np.int64]]
"""Distinct pieces as UTF-8, and their counts."""


class Group(NamedTuple):
    """What measurements are told apart by."""

    source: str
    script: str


class GroupCounts:
    """Pieces of text, counted apart by group; a context manager, as `RawCounts` is.

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

    def add(self, source: str, text: str, times: int = 1) -> None:
        """Count a document in, its pieces so many times."""
        group = Group(source, script_of(text))
        self._of(group).add(text, times)
        self.documents[group] += 1

    def merge(self, documents: Counter[Group], items: "dict[Group, Items]") -> None:
        """Count in what another has counted."""
        self.documents.update(documents)
        for group, counted in items.items():
            self._of(group).merge(*counted)

    def items(self) -> "dict[Group, Items]":
        """What was counted, to be merged elsewhere."""
        return {group: counts.items() for group, counts in self._counts.items()}

    def of(self, group: Group) -> Iterator[tuple[str, int]]:
        """A group's distinct pieces with their counts, in the order of code points."""
        return self._counts[group].sorted_items()

    def _of(self, group: Group) -> RawCounts:
        if group not in self._counts:
            self._counts[group] = self._open.enter_context(RawCounts(self._limit))
        return self._counts[group]


class Counts:
    """What `count_corpus` found; a context manager, because the pieces may lie in temporary files.

    sources: what was seen of each
    learned, held_out: the pieces of the two sides

    labels: what measurements will be told apart by, beside scripts
    """

    def __init__(self, sources: Sequence[Source], labels: int) -> None:
        self._names = [source.name for source in sources]
        self.sources = [Seen() for _ in sources]
        self.learned, self.held_out = RawCounts(), GroupCounts(labels)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.learned, self.held_out:
            pass

    @property
    def whole(self) -> Seen:
        """What was seen of all sources together."""
        return Seen.sum_of(self.sources)

    @property
    def by_name(self) -> dict[str, Seen]:
        """What was seen of each source that has a name."""
        return {name: seen for name, seen in zip(self._names, self.sources, strict=True) if name}

    @property
    def identity(self) -> dict[str, Any]:
        """The corpus as artefacts record it: all of it, and each source that has a name."""
        apart = {name: seen.corpus.as_dict() for name, seen in self.by_name.items()}
        return self.whole.corpus.as_dict() | ({"sources": apart} if apart else {})

    def invalid_notices(self) -> list[str]:
        """What was done about broken UTF-8, a line each."""
        return [
            f"{what} as no UTF-8: {count:,} document{'s' if count > 1 else ''}"
            for what, count in sorted(self.whole.invalid.items())
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


@dataclass(frozen=True, kw_only=True)
class CountTask:
    """What a worker needs to count a bundle of `source`, which has the number `number`.

    learned, held_out: ranges [first, last) of a document's hash, whose pieces are counted; none of either: how long the
        documents of each range are
    """

    bundle: Bundle
    source: Source
    number: int
    learned: frozenset[int] | range
    held_out: range


@dataclass(kw_only=True)
class Counted:
    """What came of a bundle of the source `number`; `lengths`: by range of the hash, documents and bytes of UTF-8.

    A document counts as often as its source's weight says, in lengths as in pieces.
    """

    number: int
    seen: Seen = field(default_factory=Seen)
    lengths: dict[int, tuple[int, int]] = field(default_factory=dict)
    learned: Items = field(default_factory=lambda: ([], np.zeros(0, np.int64)))
    held_out: dict[Group, Items] = field(default_factory=dict)
    documents: Counter[Group] = field(default_factory=Counter)


def count_bundle(task: CountTask) -> Counted:
    """Count the documents of a bundle. Raises InputError where a file can't be read."""
    counted = Counted(number=task.number)
    with RawCounts() as learned, GroupCounts(len({split.source for split in task.bundle})) as held_out:
        for kept in counted.seen.documents(task.bundle, task.source):
            number = _range(kept.high)
            documents, size = counted.lengths.get(number, (0, 0))
            counted.lengths[number] = documents + 1, size + utf8_length(kept.text) * kept.times
            if number in task.learned:
                learned.add(kept.text, kept.times)
            elif number in task.held_out:
                held_out.add(kept.label, kept.text, kept.times)
        counted.learned = learned.items()
        counted.held_out, counted.documents = held_out.items(), held_out.documents
    return counted


def count_corpus(
    found: Sequence[FoundSource],
    *,
    max_bytes: int | None = None,
    held_out: float = HELD_OUT,
    workers: int | None = None,
) -> Counts:
    """Count the documents of all sources, to be used as a context manager.

    max_bytes: UTF-8 bytes to learn from, whole documents; all is read twice then. None: all
    held_out: share of the documents that is held out; 1 to learn nothing, and measure all
    workers: processes; None: one a core, as far as each has 16 MB to read
    Raises InputError where a file can't be read, or `max_bytes` is less than any document.
    """
    labels = {split.source for each in found for split in each.splits}
    counts = Counts([each.source for each in found], len(labels))
    try:
        _count(counts, found, max_bytes, _RANGES - round(held_out * _RANGES), workers)
    except BaseException:
        with counts:
            raise
    return counts


def _count(
    counts: Counts,
    found: Sequence[FoundSource],
    max_bytes: int | None,
    first_held_out: int,
    workers: int | None,
) -> None:
    total = sum(split.bytes for each in found for split in each.splits)
    piece = min(_LARGEST_BUNDLE, piece_bytes(total))
    bundles = [(each, bundle) for each in found for bundle in gather_bundles(each.splits, piece)]
    wanted = workers or min(available_cores(), total // _WORKER_BYTES)
    processes = max(1, min(wanted, len(bundles)))
    with open_executor(processes) as executor:

        def passed(title: str, learned: frozenset[int] | range, held_out: range) -> Iterator[Counted]:
            tasks = [
                CountTask(
                    bundle=bundle, source=each.source, number=each.number, learned=learned, held_out=held_out
                )
                for each, bundle in bundles
            ]
            with Progress(title, total=total / 1e6, unit="MB") as progress:
                began, documents, size = time.monotonic(), 0, 0
                for counted in run_tasks(executor, count_bundle, tasks, workers=processes):
                    read = counted.seen.corpus
                    documents, size = documents + read.documents, size + read.bytes
                    rate = size / 1e6 / (time.monotonic() - began)
                    note = f"{documents:,} documents, {rate:.2f} MB/s"
                    progress.advance(total / 1e6 / len(bundles), note=note, documents=documents)
                    yield counted

        if max_bytes is None:
            for counted in passed("counting", range(first_held_out), range(first_held_out, _RANGES)):
                _merge(counts, counted)
                _merge_pieces(counts, counted)
            return
        lengths: Counter[int] = Counter()
        held_out = 0
        for counted in passed("reading", range(0), range(0)):
            _merge(counts, counted)
            for number, (documents, size) in counted.lengths.items():
                lengths[number] += size
                held_out += documents if number >= first_held_out else 0
        if not lengths:
            return
        if held_out < LEAST_HELD_OUT:
            first_held_out = _RANGES
        chosen = _lowest(lengths, max_bytes, first_held_out)
        for counted in passed("counting", chosen, range(first_held_out, _RANGES)):
            _merge_pieces(counts, counted)


def _merge(counts: Counts, counted: Counted) -> None:
    counts.sources[counted.number].merge(counted.seen)


def _merge_pieces(counts: Counts, counted: Counted) -> None:
    counts.learned.merge(*counted.learned)
    counts.held_out.merge(counted.documents, counted.held_out)


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
