"""Where words begin, in languages that are written without spaces.

In: sentences and their language. Out: for each character of all of them, whether a word begins there.
What always holds: a sentence's first character begins a word; the words are those that the library finds in the
sentence alone. The libraries are optional (`pip install 'bertpipe[words]'`) and carry their dictionaries: nothing
is downloaded.

Chosen for wheels, licence and speed (benchmarks/LOG.md): `rjieba` (jieba's dictionary and hidden Markov model in
Rust) for Chinese; `sudachipy` with the small dictionary for Japanese, in its short units (split mode A), which are
UniDic's, the words that Tohoku University's Japanese BERT hides whole.

Example:
    check_words("zh")
    word_begins(["我喜欢北京。"], "zh")  # 我 | 喜欢 | 北京 | 。
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

# The packages that find a language's words; the first one is the library, others are its data.
_PACKAGES = {"ja": ("sudachipy", "sudachidict_small"), "zh": ("rjieba",)}
# Written without spaces too. Their words run past the tokeniser's 100 characters unless spaces are put between them.
_UNSUPPORTED = ["bo", "dz", "km", "lo", "my", "th"]

# sudachi refuses over 65,535 bytes, counted after compatibility forms are written out: ﷺ takes 33.
_SUDACHI_CHARACTERS = 1000

# Characters of scripts without spaces: iteration marks and numerals among the ideographic signs, kana, bopomofo,
# Han (with the compatibility forms and the planes kept for it), half-width katakana.
_SCRIPTS = (
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x3038, 0x303C), (0x3041, 0x312F), (0x31A0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFD),
)  # fmt: skip
# Where a script begins, and where it is over: an odd number of edges behind a character says that it is in one.
_EDGES = np.array([edge for first, last in _SCRIPTS for edge in (first, last + 1)], np.uint32)


def has_words(language: str) -> bool:
    """Whether a library here finds the words of `language`."""
    return language in _PACKAGES


def packages_of(language: str) -> tuple[str, ...]:
    """The packages that find the words of a language that `check_words` has passed."""
    return _PACKAGES[language]


def library_of(language: str) -> str:
    """The library among them."""
    return _PACKAGES[language][0]


def check_words(language: str) -> None:
    """Raise InputError where the words of `language` need no library, have none here, or it isn't installed."""
    if language not in _PACKAGES:
        raise InputError(
            f"--words is for {' and '.join(_PACKAGES)}, and the language is {_why_not(language)}"
        )
    missing = [name for name in _PACKAGES[language] if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"the words of language {language!r} are found by {' and '.join(missing)}, not installed here; "
            "pip install 'bertpipe[words]'"
        )


def _why_not(language: str) -> str:
    if language == "und":
        return "'und'; name the text's own with --language, or leave --words out"
    if language in _UNSUPPORTED:
        return (
            f"{language!r}, whose text needs spaces between words for BERT's tokeniser anyway (docs/languages.md); "
            "then whole words are known without --words"
        )
    return (
        f"{language!r}, which puts spaces between words, so that whole words are known without; leave --words "
        "out, or name another --language"
    )


def word_begins(sentences: Sequence[str], language: str) -> NDArray[np.bool_]:
    """For each character of the sentences laid end to end, whether a word begins there."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    begins = np.zeros(int(lengths.sum()), np.bool_)
    places = _finder(language)(sentences)
    begins[places[places < len(begins)]] = True  # what would come behind the last word begins none
    begins[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    return begins


def is_unspaced(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which code points belong to scripts that are written without spaces."""
    return (np.searchsorted(_EDGES, codes, side="right") & 1).astype(np.bool_)


# From sentences to the places, among all their characters, where words begin.
_Finder = Callable[[Sequence[str]], NDArray[np.int64]]


@cache
def _finder(language: str) -> _Finder:
    """Loaded once a process, one for each language that it meets: a dictionary takes a tenth of a second and up to
    100 MB."""
    return {"ja": _japanese, "zh": _chinese}[language]()


def _chinese() -> _Finder:
    import rjieba

    def find(sentences: Sequence[str]) -> NDArray[np.int64]:
        # Its words laid end to end are the text, so where one ends the next begins.
        words = chain.from_iterable(map(rjieba.cut, sentences))
        return np.cumsum(np.fromiter(map(len, words), np.int64))

    return find


def _japanese() -> _Finder:
    from sudachipy import Dictionary, SplitMode

    tokenizer = Dictionary(dict="small").tokenizer(SplitMode.A)

    def places(sentences: Sequence[str]) -> Iterator[int]:
        before = 0
        for sentence in sentences:
            for start in range(0, len(sentence), _SUDACHI_CHARACTERS):
                piece = sentence[start : start + _SUDACHI_CHARACTERS]
                for word in tokenizer.tokenize(piece):
                    yield before + start + word.begin()
            before += len(sentence)

    return lambda sentences: np.fromiter(places(sentences), np.int64)
