"""A document, and how its content is recognised again.

In: text from a reader. Out: its hash, and one fingerprint for a whole corpus.
What always holds: neither depends on how white space is spelled, nor on the files or the order in which
documents came, so the same corpus as text and as Parquet is the same corpus.

Example:
    >>> document_hash("one\\ntwo") == document_hash("one two")
    True
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import xxhash

_MODULUS = 1 << 128

# Python and Unicode see white space in these; BERT's normaliser deletes them, which would glue the words
# on either side together. pdftotext writes one (form feed) at every page's end.
_SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
# A file's byte-order mark, which stands in its middle where files were joined. As a letter it has no width, is
# deprecated since Unicode 3.2, and BERT's normaliser deletes it.
_BYTE_ORDER_MARK = "\ufeff"
# What else there is, with ASCII's first.
_ODD_SPACES = ("  ", "\t", *"\u00a0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B)))
# Of a line, looked at in one go: a book's words as a list take eight times its text.
_PIECE_CHARACTERS = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of a corpus.

    `text` is in canonical form (see `canonical`), words apart by single spaces, no line blank; "" where the corpus
    holds an empty document, which the caller drops and counts. `sentences`, where given, are its sentences
    as the corpus states them, in the same form and none empty; otherwise None, and `text` is to be segmented.
    `invalid`: what was done to it for being no UTF-8; a skipped one's text is "".
    """

    text: str
    sentences: tuple[str, ...] | None = None
    invalid: Literal["replaced", "skipped"] | None = None


def canonical(text: str) -> str:
    """`text` in NFC, lines ended by a line feed alone, no NUL or byte-order mark, rare separators as spaces."""
    for unwanted, wanted in (("\0", ""), (_BYTE_ORDER_MARK, ""), ("\r\n", "\n"), ("\r", "\n")):
        if unwanted in text:
            text = text.replace(unwanted, wanted)
    for separator in _SEPARATORS:
        if separator in text:
            text = text.replace(separator, " ")
    if len(text) <= _PIECE_CHARACTERS:
        return unicodedata.normalize("NFC", text)
    return "".join(unicodedata.normalize("NFC", piece) for piece in _cut_before_spaces(text))


def _cut_before_spaces(text: str) -> Iterator[str]:
    """The text in pieces, none of whose characters compose with those of the next: a space never does.

    Normalised whole, a text takes eight bytes a character beside itself.
    """
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = text.find(" ", start + _PIECE_CHARACTERS)
        if end < 0:
            break
        yield text[start:end]
        start = end
    yield text[start:]


def normalise(text: str) -> str:
    """What two documents must share to be the same one: canonical, runs of white space as one space."""
    return " ".join(canonical(text).split())


def single_spaced(line: str) -> Iterator[str]:
    """`" ".join(line.split())` in pieces: in memory bounded by the pieces, however long the line."""
    if len(line) <= _PIECE_CHARACTERS:
        yield " ".join(line.split())
        return
    began = apart = False  # whether a word came before, and whether white space came after it
    for start in range(0, len(line), _PIECE_CHARACTERS):
        piece = line[start : start + _PIECE_CHARACTERS]
        if words := piece.split():
            space = " " if began and (apart or piece[0].isspace()) else ""
            yield space + " ".join(words)
            began, apart = True, piece[-1].isspace()
        else:
            apart = True


def tidy(lines: list[str]) -> list[str]:
    """`" ".join(line.split())` of each of some stripped lines."""
    # Most documents have no other white space, which is seen at once: to take each line apart takes five times as long.
    text = "\n".join(lines)
    odd = _ODD_SPACES[:2] if text.isascii() else _ODD_SPACES
    if not any(space in text for space in odd):
        return lines
    return ["".join(single_spaced(line)) for line in lines]


def document_hash(text: str) -> tuple[int, int]:
    """The xxh3-128 of a `Document.text`, lines being words like others, as its upper and lower 64 bits."""
    state = xxhash.xxh3_128()
    for start in range(0, len(text), _PIECE_CHARACTERS):
        state.update(text[start : start + _PIECE_CHARACTERS].replace("\n", " ").encode())
    whole = state.intdigest()
    return whole >> 64, whole & 0xFFFF_FFFF_FFFF_FFFF


def utf8_length(text: str) -> int:
    """Bytes of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


@dataclass(kw_only=True)
class Fingerprint:
    """A corpus's identity, gathered document by document in any order.

    The sum (not the exclusive or) of the hashes, modulo 2^128, so that a document held twice counts twice.
    """

    documents: int = 0
    bytes: int = 0  # of UTF-8 text
    total: int = 0

    def add(self, text: str) -> tuple[int, int]:
        """Count a document in; returns its hash."""
        high, low = document_hash(text)
        self.documents += 1
        self.bytes += utf8_length(text)
        self.total = (self.total + (high << 64) + low) % _MODULUS
        return high, low

    def merge(self, other: "Fingerprint") -> None:
        """Count in what another process gathered."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.total = (self.total + other.total) % _MODULUS

    def as_dict(self) -> dict[str, Any]:
        """The form in which artefacts record it."""
        return {"fingerprint": f"{self.total:032x}", "documents": self.documents, "bytes": self.bytes}
