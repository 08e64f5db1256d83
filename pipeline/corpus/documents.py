"""A document, and how its content is recognised again.

In: text from a reader. Out: its hash, and one fingerprint for a whole corpus.
What always holds: neither depends on how white space is spelled, nor on the files or the order in which
documents came, so the same corpus as text and as Parquet is the same corpus.

Example:
    >>> document_hash("one  two\\n") == document_hash("one two")
    True
"""

import unicodedata
from dataclasses import dataclass
from typing import Any

import xxhash

_MODULUS = 1 << 128

# Python and Unicode see white space in these; BERT's normaliser deletes them, which would glue the words
# on either side together. pdftotext writes one (form feed) at every page's end.
_SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of a corpus.

    `text` is in canonical form (see `canonical`), each line stripped, no line blank; "" where the corpus
    holds an empty document, which the caller drops and counts. `sentences`, where given, are its sentences
    as the corpus states them, each stripped and none empty; otherwise None, and `text` is to be segmented.
    """

    text: str
    sentences: tuple[str, ...] | None = None


def canonical(text: str) -> str:
    """`text` in NFC, lines ended by a line feed alone, no NUL, and rare separators as spaces."""
    for unwanted, wanted in (("\0", ""), ("\r\n", "\n"), ("\r", "\n")):
        if unwanted in text:
            text = text.replace(unwanted, wanted)
    for separator in _SEPARATORS:
        if separator in text:
            text = text.replace(separator, " ")
    return unicodedata.normalize("NFC", text)


def normalise(text: str) -> str:
    """What two documents must share to be the same one: canonical, runs of white space as one space."""
    return " ".join(canonical(text).split())


def document_hash(text: str) -> tuple[int, int]:
    """The xxh3-128 of the normalised text's UTF-8, as its upper and lower 64 bits."""
    state, space = xxhash.xxh3_128(), b""
    # Line by line, since a book's words as a list take eight times its text.
    for line in canonical(text).split("\n"):
        if words := line.split():
            state.update(space + " ".join(words).encode())
            space = b" "
    whole = state.intdigest()
    return whole >> 64, whole & 0xFFFF_FFFF_FFFF_FFFF


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
        self.bytes += len(text) if text.isascii() else len(text.encode())
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
