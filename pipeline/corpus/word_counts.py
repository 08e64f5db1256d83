"""Text → how often each word of BERT's occurs, in bounded memory.

In: documents' texts. Out: counts of *words* as BERT's normaliser and pre-tokeniser cut them (lower case
without accents where uncased, punctuation and Chinese characters on their own).
What always holds: the counts depend on the documents alone, not on their order; memory is bounded by two
limits on distinct words, past which disk takes over and the rarest words are let go (see `bert_words`).

Text is first cut at white space, and around each Chinese character, and counted as it stands; only the distinct
results are normalised: on 35 MB of English that is 351,000 strings instead of 6 million. It gives what
normalising the whole text gives, because BERT's normaliser works character by character, puts white space
around Chinese characters itself, and no accent reaches across white space.

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
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from pipeline.errors import RunFailed

RAW_LIMIT = 4_000_000
"""Distinct strings between white space held in memory (0.7 GB, measured); then they go to disk, sorted."""

WORD_LIMIT = 1_000_000
"""Distinct words of BERT's that stay; the trainer then takes the command to 1.8 GB (measured)."""

# Characters read before they go to disk, too: where nobody writes white space (Thai), the strings are long.
_RAW_CHARACTERS = 1 << 29

MAX_WORD_CHARACTERS = 100
"""Longer words are [UNK] to every BERT tokeniser, so they teach a vocabulary nothing."""


_PIECE_CHARACTERS = 1 << 20
_SPACE = re.compile(r"\s")

# What BERT's normaliser calls Chinese: blocks of ideographs. (The library begins one 256 characters late.)
_IDEOGRAPHS = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f"
)
_CHINESE = re.compile(f"[{_IDEOGRAPHS}]")
_CHINESE_OR_OTHER = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")


class RawCounts:
    """Counts of the strings between white space; a context manager, because it may use temporary files."""

    def __init__(self, limit: int = RAW_LIMIT) -> None:
        self._limit = limit
        self._most_characters = _RAW_CHARACTERS * limit // RAW_LIMIT
        self._counts: Counter[str] = Counter()
        self._characters = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._runs: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, text: str) -> None:
        """Count a document's words in."""
        for piece in _pieces(text):
            chinese = not piece.isascii() and _CHINESE.search(piece)
            self._counts.update(_CHINESE_OR_OTHER.findall(piece) if chinese else piece.split())
            self._characters += len(piece)
            if len(self._counts) > self._limit or self._characters > self._most_characters:
                self._spill()

    def sorted_items(self) -> Iterator[tuple[str, int]]:
        """Every distinct string with its count, in the order of code points."""
        runs = [_read_run(path) for path in self._runs]
        word, total = "", 0
        for next_word, count in heapq.merge(*runs, sorted(self._counts.items())):
            if next_word != word:
                if total:
                    yield word, total
                word, total = next_word, 0
            total += count
        if total:
            yield word, total

    def _spill(self) -> None:
        path = "into the system's temporary folder"
        try:
            path = tempfile.gettempdir()
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="bertpipe-words-")
            path = os.path.join(self._folder.name, f"{len(self._runs):05d}")
            with open(path, "w", encoding="utf-8", newline="\n") as run:
                run.writelines(f"{count}\t{word}\n" for word, count in sorted(self._counts.items()))
        except OSError as error:
            raise RunFailed(
                f"cannot write {path}: {error.strerror}; set TMPDIR to a folder with more room"
            ) from error
        self._runs.append(path)
        self._counts.clear()
        self._characters = 0


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


def _read_run(path: str) -> Iterator[tuple[str, int]]:
    with open(path, encoding="utf-8", newline="\n") as run:
        for line in run:
            count, _, word = line.removesuffix("\n").partition("\t")
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
