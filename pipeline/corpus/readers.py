"""Raw text → documents, one at a time.

In: a split (a `.txt`, `.txt.gz` or part of a `.parquet`). Out: its documents in the order it holds them.
What always holds: memory is bounded by a block and the longest document, never by the file; text is
canonical (`documents.canonical`), so what follows sees one spelling of line ends and of characters; a
byte that is no UTF-8, a damaged file or a missing column is an error that names the place.

In a text file a blank line ends a document. In Parquet each row is one. An empty row comes as a document
with the text "", to be dropped and counted by the caller.

Example:
    for split in find_splits(["corpus/"]):
        for document in read_documents(split, ReadOptions(sentences="lines")): ...
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal, cast, get_args

import pyarrow as pa

from pipeline import storage
from pipeline.corpus.documents import Document, canonical, document_hash, normalise
from pipeline.corpus.splits import Split, find_splits, open_parquet
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

_BLOCK_BYTES = 4 << 20
_BATCH_ROWS = 256  # documents decoded at once: 0.5 MB at the shared corpus's median, 256 MB of 1 MB books


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How the corpus's files are to be understood."""

    sentences: Sentences = "paragraphs"
    """`lines`: each line is a sentence already; `paragraphs`: each line is text still to be segmented."""

    text_column: str = "text"
    """The Parquet column that holds the documents' text."""

    def __post_init__(self) -> None:
        if self.sentences not in get_args(Sentences):
            raise InputError(f"sentences is {self.sentences!r}; it must be 'paragraphs' or 'lines'")


def read_documents(split: Split, options: ReadOptions) -> Iterator[Document]:
    """The documents of `split`.

    Raises InputError where the file is missing, damaged or no UTF-8, or lacks the text column.
    """
    if split.kind == "parquet":
        texts = _parquet_texts(split, options.text_column)
        return (_document(_stripped_lines(text), options) for text in texts)
    return (_document(lines, options) for lines in _text_documents(split.path))


def _document(lines: list[str], options: ReadOptions) -> Document:
    sentences = tuple(lines) if options.sentences == "lines" else None
    return Document(text="\n".join(lines), sentences=sentences)


def _stripped_lines(text: str) -> list[str]:
    return [stripped for line in canonical(text).split("\n") if (stripped := line.strip())]


def _text_documents(path: str) -> Iterator[list[str]]:
    lines: list[str] = []
    for block in _text_blocks(path):
        for line in block.split("\n"):
            if stripped := line.strip():
                lines.append(stripped)
            elif lines:
                yield lines
                lines = []
    if lines:
        yield lines


def _text_blocks(path: str) -> Iterator[str]:
    """Whole lines of the file, many at once, each block without its last line end."""
    line_number = 1
    try:
        with storage.open_read(path) as raw:
            stream = raw
            if path.lower().endswith(".gz"):
                if not storage.size(path):
                    raise EOFError  # gzip itself takes a file of no bytes for an empty one
                stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw))
            for index, block in enumerate(_whole_lines(stream)):
                try:
                    text = block.decode("utf-8-sig" if index == 0 else "utf-8")
                except UnicodeDecodeError as error:
                    # The error's own bytes: `utf-8-sig` counts from after the mark.
                    bad_line = line_number + _line_ends(error.object[: error.start])
                    raise InputError(
                        f"{path}: line {bad_line} is no UTF-8 (byte 0x{error.object[error.start]:02x}); "
                        "convert the file, for example with iconv -t UTF-8"
                    ) from error
                yield canonical(text).removesuffix("\n")
                line_number += _line_ends(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = "ends too early" if isinstance(error, EOFError) else f"is damaged ({error})"
        raise InputError(f"{path} {reason}; copy or compress it anew") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or str(error).splitlines()[0]}") from error


def _line_ends(data: bytes) -> int:
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def _whole_lines(stream: IO[bytes]) -> Iterator[bytes]:
    pieces: list[bytes] = []
    while block := stream.read(_BLOCK_BYTES):
        # A carriage return at the block's very end may be half of a line end.
        cut = max(block.rfind(b"\n"), block.rfind(b"\r", 0, len(block) - 1)) + 1
        if cut:
            yield b"".join([*pieces, block[:cut]])
            pieces = []
        pieces.append(block[cut:])
    if rest := b"".join(pieces):
        yield rest


def _parquet_texts(split: Split, column: str) -> Iterator[str]:
    assert split.row_groups is not None
    with open_parquet(split.path) as file:
        _check_column(split.path, file.schema_arrow, column)
        row = sum(file.metadata.row_group(group).num_rows for group in range(split.row_groups[0]))
        groups = list(range(*split.row_groups))
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=[column], use_threads=False):
            for value in batch.column(0):
                row += 1
                try:
                    text = value.as_py() or ""
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{split.path}: row {row} of column {column!r} is no UTF-8; write the column anew"
                    ) from error
                yield text.removeprefix("\ufeff")


def _check_column(path: str, schema: pa.Schema, column: str) -> None:
    strings = [field.name for field in schema if _is_string(field.type)]
    if column not in schema.names:
        raise InputError(
            f"{path} has no column {column!r}; its columns are {', '.join(schema.names)} (--text-column)"
        )
    if column not in strings:
        raise InputError(
            f"{path}: column {column!r} holds {schema.field(column).type}, not text; "
            f"columns of text: {', '.join(strings) or 'none'} (--text-column)"
        )


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
