"""UTF-8 text → pieces that BERT's tokeniser treats each by itself, found in all of the text at once.

In: text as UTF-8 bytes. Out: where each piece starts and ends. A piece is what stands between ASCII white space,
ASCII punctuation, Chinese characters and common marks such as quotes and dashes, or one of those characters.
What always holds: tokenising the pieces one by one gives what tokenising the text gives (special tokens spelled
out in it apart, which the tokeniser looks for before it cuts), because BERT's normaliser works character by
character, no accent reaches across white space or punctuation, and its pre-tokeniser cuts at all these places.
It cuts at others, too (Unicode has 800 punctuation marks): a piece may be several of BERT's words, or none.

Natural text repeats its pieces, so that few are ever tokenised (`word_table`).

Example:
    starts, ends = cut_words(b"don't stop")
    # don | ' | t | stop
"""

import string

import numpy as np
from numpy.typing import NDArray

_SPACE, _ALONE, _INSIDE, _MAY_LEAD, _LEADS = range(5)


def _class_of(byte: int) -> int:
    if byte in b" \t\n\r":
        return _SPACE
    if byte in string.punctuation.encode():
        return _ALONE
    if byte in b"\xe2\xe3\xe4":
        return _MAY_LEAD
    return _LEADS if 0xE5 <= byte <= 0xE9 else _INSIDE


_CLASSES = bytes(map(_class_of, range(256)))


def cut_words(text: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bytes [start, end) of each piece of `text`, valid UTF-8, in order (both int64)."""
    classes = np.zeros(len(text) + 2, np.uint8)
    classes[1:-1] = np.frombuffer(text.translate(_CLASSES), np.uint8)
    solid, alone = classes != _SPACE, classes == _ALONE
    # Between the byte before a place and the one behind it, for all places from 0 to the text's length.
    cuts = alone[:-1] | alone[1:]
    if not text.isascii():
        first = _three_bytes_alone(text, classes[1:-1])
        cuts[first] = True
        cuts[first + 3] = True
    before, behind = solid[:-1], solid[1:]
    return np.flatnonzero(behind & (cuts | ~before)), np.flatnonzero(before & (cuts | ~behind))


def _three_bytes_alone(text: bytes, classes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where characters of three bytes begin that are pieces of their own.

    U+4E00 to U+9FFF, Chinese to BERT whatever the language; U+2010 to U+2027 and U+3001 to U+3003, punctuation.
    """
    # Behind the last byte nothing is read: a lead byte of valid text is followed by two more.
    places = np.flatnonzero(classes >= _MAY_LEAD)
    data = np.frombuffer(text, np.uint8)
    lead, second, third = data[places], data[places + 1], data[places + 2]
    marks = second == 0x80
    dashes_and_quotes = (lead == 0xE2) & marks & (third >= 0x90) & (third <= 0xA7)
    stops = (lead == 0xE3) & marks & (third >= 0x81) & (third <= 0x83)
    return places[(lead >= 0xE5) | ((lead == 0xE4) & (second >= 0xB8)) | dashes_and_quotes | stops]
