"""What filters measure of a text: its length, its letters, its repetitions.

In: a text in canonical form. Out: a number. What always holds: white space counts nowhere; memory is bounded by a
piece of the text, or by its lines.

`repeated_lines` and `repeated_text` are the duplicate line fraction and the duplicate line character fraction of
Gopher's filters, which keep documents of up to 0.30 and 0.20 (Rae et al. 2021, arXiv:2112.11446, table A1).

Example:
    letter_share("Total: 42")  # 0.625: 5 letters of 8 characters
"""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.documents import single_spaced

_PIECE_CHARACTERS = 1 << 20
_LAST_CODE_POINT = 0x10FFFF
_OTHER, _LETTER, _NOTHING = range(3)
# They join letters and have no width; Persian and Hindi spelling needs them.
_JOINERS = (0x200C, 0x200D)


def length(text: str, enough: int) -> int:
    """Characters, runs of white space as one space; `enough` or more where there are so many."""
    found = -1
    for line in text.split("\n"):
        for piece in single_spaced(line):
            found += len(piece)
        found += 1
        if found >= enough:
            break
    return found


def letter_share(text: str) -> float:
    """Letters among the characters that are no white space, each with its marks; 0 where there are none.

    A mark (an accent that stays apart, a vowel sign of Hindi's) is part of its letter: it counts as one.
    """
    kinds = _kinds()
    counts = np.zeros(3, np.int64)
    for piece in _pieces(text):
        codes = np.frombuffer(piece.encode("utf-32-le"), np.uint32)
        counts += np.bincount(kinds[codes], minlength=3)
    characters = int(counts[_LETTER] + counts[_OTHER])
    return int(counts[_LETTER]) / characters if characters else 0.0


@lru_cache(maxsize=1)
def _kinds() -> NDArray[np.uint8]:
    """For each code point whether it is a letter, white space or another; made once a process, in 0.3 s."""
    kinds = np.full(_LAST_CODE_POINT + 1, _OTHER, np.uint8)
    for code in range(_LAST_CODE_POINT + 1):
        character = chr(code)
        if unicodedata.category(character)[0] in "LM":
            kinds[code] = _LETTER
        elif character.isspace():
            kinds[code] = _NOTHING
    kinds[list(_JOINERS)] = _NOTHING
    return kinds


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _PIECE_CHARACTERS] for start in range(0, len(text), _PIECE_CHARACTERS))


def repeated_lines(text: str) -> float:
    """The share of lines that repeat an earlier one."""
    lines = text.split("\n")
    return 1 - len(set(lines)) / len(lines)


def repeated_text(text: str) -> float:
    """The share of characters that stand in lines that repeat an earlier one."""
    lines = text.split("\n")
    distinct = set(lines)
    if len(distinct) == len(lines):
        return 0.0
    return 1 - sum(map(len, distinct)) / sum(map(len, lines))
