"""Raw text → documents, one at a time.

In: a split (a file of any kind that `formats` knows, or a part of one). Out: its documents in the order
it holds them. What always holds: memory is bounded by a block and the longest document, never by the file; text
is canonical (`documents.canonical`), so what follows sees one spelling of line ends and of characters, and equal
documents of different kinds of files are equal; what can't be read is an error that names the place.

A row, line or article without text comes as a document with the text "", to be dropped and counted by the caller,
as does one that is skipped because it is no UTF-8.

Example:
    for split in find_splits(["corpus/"]):
        for document in read_documents(split, ReadOptions(sentences="lines")): ...
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from pipeline.corpus.documents import Document, document_hash, normalise, tidy
from pipeline.corpus.filters import FilterOptions
from pipeline.corpus.formats import Format, check_format
from pipeline.corpus.json_lines import json_documents
from pipeline.corpus.parquet_files import parquet_documents
from pipeline.corpus.splits import Split, find_splits
from pipeline.corpus.text_files import Parsed, text_documents
from pipeline.corpus.utf8 import Policy, check_policy
from pipeline.corpus.wikiextractor import wikiextractor_documents
from pipeline.errors import InputError

__all__ = [
    "Document",
    "ReadOptions",
    "Split",
    "document_hash",
    "find_splits",
    "normalise",
    "read_documents",
]

Sentences = Literal["paragraphs", "lines"]

TEXT_KEYS = ("text", "sentences")  # the one that holds something, unless the user names another


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How the corpus's files are to be understood."""

    sentences: Sentences = "paragraphs"
    """`lines`: each line is a sentence already; `paragraphs`: each line is text still to be segmented."""

    format: Format = "auto"
    """What all files are; `auto`: each what its name, or its beginning, says."""

    text_key: str | None = None
    """The key of JSON Lines, or the column of Parquet, that holds the text: a string, or a list of strings that
    are sentences; a dotted path leads into objects and structs. None: `text`, or else `sentences`."""

    invalid_utf8: Policy = "error"
    """What is done about a document that is no UTF-8: refused, U+FFFD for each broken sequence, or left out."""

    filters: FilterOptions = field(default_factory=FilterOptions)
    """What is left out of the documents, and which of them are; whoever reads them puts it to work (`filters`)."""

    def __post_init__(self) -> None:
        if self.sentences not in get_args(Sentences):
            raise InputError(f"sentences is {self.sentences!r}; it must be 'paragraphs' or 'lines'")
        if self.text_key == "":
            raise InputError("text_key is empty; name the key or column that holds the text")
        check_format(self.format)
        check_policy(self.invalid_utf8)


def read_documents(split: Split, options: ReadOptions) -> Iterator[Document]:
    """The documents of `split`.

    Raises InputError where the file is missing, damaged, of another kind or no UTF-8, or lacks the text.
    """
    return (_document(parsed, options) for parsed in _parsed(split, options))


def _parsed(split: Split, options: ReadOptions) -> Iterator[Parsed]:
    keys = TEXT_KEYS if options.text_key is None else (options.text_key,)
    policy = options.invalid_utf8
    if split.kind == "parquet":
        assert split.row_groups is not None
        return parquet_documents(split.path, split.row_groups, keys, policy)
    if split.kind == "jsonl":
        return json_documents(split.path, keys, policy, split.byte_range)
    if split.kind == "wikiextractor":
        return wikiextractor_documents(split.path, policy, split.byte_range)
    return text_documents(split.path, policy, split.byte_range, named=options.format == "auto")


def _document(parsed: Parsed, options: ReadOptions) -> Document:
    if parsed.broken and options.invalid_utf8 == "skip":
        return Document(text="", invalid="skipped")
    given = parsed.sentences or options.sentences == "lines"
    lines = tidy(parsed.lines)
    return Document(
        text="\n".join(lines),
        sentences=tuple(lines) if given else None,
        invalid="replaced" if parsed.broken else None,
    )
