"""Text → how often each word of BERT's occurs, in bounded memory.

In: documents' texts. Out: counts of *words* as BERT's normaliser and pre-tokeniser cut them (lower case
without accents where uncased, punctuation and Chinese characters on their own).
What always holds: the counts depend on the documents alone, not on their order; memory is bounded by two
limits on distinct words, past which disk takes over and the rarest words are let go (see `bert_words`).

Text is first cut into pieces, each of which the tokeniser treats by itself (`word_cutting`), and these are counted as
they stand; only the distinct ones are normalised: on 35 MB of English that is 150,000 instead of 7 million.

Example:
    with RawCounts() as raw:
        raw.add("The cat. The dog.")
        bert_words(raw.sorted_items(), cased=False)  # Counter({'the': 2, '.': 2, 'cat': 1, 'dog': 1})
"""

import heapq
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from pipeline.corpus.ragged import Growing, starts_of
from pipeline.corpus.word_cutting import cut_words
from pipeline.corpus.word_table import WordTable
from pipeline.errors import RunFailed

RAW_LIMIT = 4_000_000
"""Distinct pieces held in memory (0.6 GB); then they go to disk, sorted."""

WORD_LIMIT = 1_000_000
"""Distinct words of BERT's that stay; the trainer then takes the command to 1.8 GB (measured)."""

# Of distinct pieces, before they go to disk, too: where nobody writes white space (Thai), they are long.
_RAW_BYTES = 1 << 28
_SLICE_CHARACTERS = 1 << 18  # counted at once: arrays of its words stay in a core's caches
_MERGED_WORDS = 1 << 15

MAX_WORD_CHARACTERS = 100
"""Longer words are [UNK] to every BERT tokeniser, so they teach a vocabulary nothing."""


_PIECE_CHARACTERS = 1 << 20
_SPACE = re.compile(r"\s")


class RawCounts:
    """Counts of pieces of text; a context manager, because it may use temporary files.

    limit: distinct pieces held in memory
    """

    def __init__(self, limit: int = RAW_LIMIT) -> None:
        self._limit = limit
        self._held: dict[int, list[str]] = {}
        self._held_characters = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._runs: list[str] = []
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, text: str, times: int = 1) -> None:
        """Count a document's pieces in, so many times each."""
        for piece in _pieces(text):
            self._held.setdefault(times, []).append(piece)
            self._held_characters += len(piece)
            if self._held_characters >= _SLICE_CHARACTERS:
                self._count_held()

    def merge(self, words: Sequence[bytes], counts: NDArray[np.int64]) -> None:
        """Count in what another has counted (`items`)."""
        for start in range(0, len(words), _MERGED_WORDS):
            part = words[start : start + _MERGED_WORDS]
            bounds = starts_of(np.fromiter(map(len, part), np.int64, len(part)))
            self._count(b"".join(part), bounds[:-1], bounds[1:], counts[start : start + _MERGED_WORDS])

    def items(self) -> tuple[list[bytes], NDArray[np.int64]]:
        """The distinct pieces as UTF-8 and their counts (int64), in the order in which they came."""
        self._count_held()
        if not self._runs:
            return self._words, self._counts.values
        both = [(word.encode(), count) for word, count in self.sorted_items()]
        return [word for word, _ in both], np.array([count for _, count in both], np.int64)

    def sorted_items(self) -> Iterator[tuple[str, int]]:
        """Every distinct piece with its count, in the order of code points."""
        self._count_held()
        word, total = b"", 0
        for next_word, count in heapq.merge(*map(_read_run, self._runs), self._sorted()):
            if next_word != word:
                if total:
                    yield word.decode(), total
                word, total = next_word, 0
            total += count
        if total:
            yield word.decode(), total

    def _count_held(self) -> None:
        held, self._held, self._held_characters = self._held, {}, 0
        for times, pieces in held.items():
            # Python's NUL is BERT's nothing, as the other is, and no piece may hold it.
            text = "\n".join(pieces).encode().replace(b"\0", b"\1")
            self._count(text, *cut_words(text), times)

    def _count(
        self, text: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64], times: NDArray[np.int64] | int
    ) -> None:
        numbers, new = self._table.look_up(text, starts, ends)
        self._words += new
        self._bytes += sum(map(len, new))
        self._counts.add(np.zeros(len(new), np.int64))
        np.add.at(self._counts.values, numbers, times)
        if len(self._words) > self._limit or self._bytes > _RAW_BYTES:
            self._spill()

    def _sorted(self) -> list[tuple[bytes, int]]:
        # UTF-8 sorts as its code points do.
        return sorted(zip(self._words, self._counts.values.tolist(), strict=True))

    def _spill(self) -> None:
        path = "into the system's temporary folder"
        try:
            path = tempfile.gettempdir()
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="bertpipe-words-")
            path = os.path.join(self._folder.name, f"{len(self._runs):05d}")
            with open(path, "wb") as run:
                run.writelines(b"%d\t%s\n" % (count, word) for word, count in self._sorted())
        except OSError as error:
            raise RunFailed(
                f"cannot write {path}: {error.strerror}; set TMPDIR to a folder with more room"
            ) from error
        self._runs.append(path)
        self._forget()

    def _forget(self) -> None:
        self._table, self._words, self._bytes = WordTable(), list[bytes](), 0
        self._counts = Growing(np.int64)


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that end at white space; a book's words as a list take eight times its text."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        space = _SPACE.search(text, start + _PIECE_CHARACTERS)
        if space is None:
            break
        yield text[start : space.start()]
        start = space.end()
    yield text[start:] if start else text


def _read_run(path: str) -> Iterator[tuple[bytes, int]]:
    with open(path, "rb") as run:
        for line in run:
            count, _, word = line.removesuffix(b"\n").partition(b"\t")
            yield word, int(count)


def bert_words(items: Iterable[tuple[str, int]], *, cased: bool, limit: int = WORD_LIMIT) -> Counter[str]:
    """Counts of BERT's words, from sorted counts of the strings between white space.

    The `limit` most frequent words come out (ties: the lower code points). Counts are exact up to 2 × `limit`
    distinct words; past that the rarest so far are dropped on the way, which can lose a word whose few
    occurrences are spelled in several ways. As the items come sorted, what is lost depends on the corpus
    alone.
    """
    split = word_splitter(cased)
    words: Counter[str] = Counter()
    for string, count in items:
        for word in split(string):
            if len(word) <= MAX_WORD_CHARACTERS:
                words[word] += count
        if len(words) > 2 * limit:
            words = _most_frequent(words, limit)
    return _most_frequent(words, limit) if len(words) > limit else words


def word_splitter(cased: bool) -> Callable[[str], list[str]]:
    """What cuts a string between white space into BERT's words, normalised, however long they are."""
    normalise = BertNormalizer(lowercase=not cased).normalize_str
    pre_tokenize = BertPreTokenizer().pre_tokenize_str

    def split(string: str) -> list[str]:
        if string.isascii() and string.isalnum():  # most occurrences, and a tenth of the time
            return [string if cased else string.lower()]
        return [word for word, _ in pre_tokenize(normalise(string))]

    return split


def _most_frequent(words: Counter[str], limit: int) -> Counter[str]:
    return Counter(dict(heapq.nsmallest(limit, words.items(), key=lambda item: (-item[1], item[0]))))
