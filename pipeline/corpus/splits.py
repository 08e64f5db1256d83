"""Where a corpus's text lies: what the user named → pieces that one process reads.

In: files, folders, globs and URIs as the user wrote them. Out: splits, sorted by path.
What always holds: the same files give the same splits in the same order, however often and in whatever
order they are named; a folder or glob that holds no text is an error, not an empty corpus.

Example:
    find_splits(["corpus/", "more/*.txt.gz", "s3://bucket/wiki.parquet"])
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import InputError

Kind = Literal["text", "parquet"]

_KINDS: dict[str, Kind] = {".txt": "text", ".txt.gz": "text", ".parquet": "parquet"}
KNOWN = ", ".join(_KINDS)

# Of Parquet: large enough that starting a task costs nothing beside it, small enough that one file feeds all
# cores. A text file is one split, whatever its size: a blank line to cut at is found only by reading.
_SPLIT_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Split:
    """A piece of the corpus that one process reads from start to end."""

    path: str
    kind: Kind
    row_groups: tuple[int, int] | None = None
    """Parquet's row groups, first and one past the last; None for text."""


def find_splits(specs: Sequence[str]) -> list[Split]:
    """The splits of every file that `specs` name, sorted by path, each file once.

    Raises InputError where a path does not exist, a folder or glob holds no known file, a named file has
    an unknown suffix, or a Parquet file is none.
    """
    if not specs:
        raise InputError("no corpus given; name files, folders, globs or URIs")
    return [split for path, kind in _unique(specs) for split in _splits_of(path, kind)]


def _unique(specs: Iterable[str]) -> list[tuple[str, Kind]]:
    found: dict[str, tuple[str, Kind]] = {}
    for spec in specs:
        for path in _paths(spec):
            kind = _kind(path)
            if kind is None:
                raise InputError(f"{path}: unknown kind of file; a corpus is made of {KNOWN}")
            place = path if storage.is_uri(path) else os.path.realpath(path)
            # The least spelling wins, so that the order of the specs decides nothing.
            found[place] = min(found.get(place, (path, kind)), (path, kind))
    return sorted(found.values())


def reach(spec: str) -> str | None:
    """The folder in which the files of a folder or glob are looked for; None where `spec` is one file."""
    if _has_wildcard(spec) and (storage.is_uri(spec) or not storage.exists(spec)):
        return _fixed(spec) or "."
    return spec if storage.is_folder(spec) else None


def _has_wildcard(spec: str) -> bool:
    # They are no legal part of a URI, so there they always are one; "?" opens its options.
    return any(character in spec for character in ("*[" if storage.is_uri(spec) else "*?["))


def _fixed(pattern: str) -> str:
    """Up to the last folder without a wildcard: all that a listing has to look through."""
    place, options = storage.options_apart(pattern)
    literal = re.split(r"[*?\[]", place, maxsplit=1)[0]
    folder = literal.rpartition("/")[0]
    return (folder or literal[:1]) + options if literal.startswith("/") else folder + options


def _kind(path: str) -> Kind | None:
    name = storage.last_name(path).lower()
    return next((kind for suffix, kind in _KINDS.items() if name.endswith(suffix)), None)


def _paths(spec: str) -> list[str]:
    try:
        pattern = _has_wildcard(spec)
        if not (pattern and storage.is_uri(spec)):
            if storage.is_folder(spec):
                return _within(spec, spec)
            if storage.exists(spec):
                return [spec]
        if not pattern:
            raise InputError(f"{spec} does not exist; name files, folders, globs or URIs that do")
        matched = _expand(spec)
    except OSError as error:
        raise InputError(f"cannot read {spec}: {error.strerror or str(error).splitlines()[0]}") from error
    if not matched:
        raise InputError(f"{spec} matches nothing; check the pattern (** crosses folders)")
    files = [
        file
        for path in matched
        for file in (_within(path, spec) if storage.is_folder(path) else [path] if _kind(path) else [])
    ]
    if not files:
        raise InputError(f"{spec} matches no corpus file; those end in {KNOWN}")
    return files


def _within(folder: str, spec: str) -> list[str]:
    """The known files under a folder; those whose own or whose folder's name starts with a dot are none."""
    files = [path for path in storage.list_files(folder, hidden=False) if _kind(path)]
    if not files and folder == spec:
        raise InputError(f"{folder} holds no corpus file; those end in {KNOWN}")
    return files


def _expand(pattern: str) -> list[str]:
    if not storage.is_uri(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    expression = re.compile(_glob_to_regex(_words(pattern)))
    return [path for path in storage.list_files(_fixed(pattern)) if expression.fullmatch(_words(path))]


def _words(uri: str) -> str:
    """A URI as one reads it: without its options and percent signs."""
    return unquote(storage.options_apart(uri)[0])


def _glob_to_regex(pattern: str) -> str:
    pieces = {"**/": r"(?:[^/.][^/]*/)*", "**": r".*", "*": r"[^/]*"}
    return "".join(
        pieces.get(piece) or (piece if piece.startswith("[") and len(piece) > 1 else re.escape(piece))
        for piece in re.findall(r"\*\*/|\*\*|\*|\[[^\]]+\]|[^*\[]+|\[", pattern)
    )


def _splits_of(path: str, kind: Kind) -> Iterator[Split]:
    if kind == "text":
        yield Split(path=path, kind=kind)
        return
    with open_parquet(path) as file:
        metadata = file.metadata
    first, gathered = 0, 0
    for group in range(metadata.num_row_groups):
        gathered += metadata.row_group(group).total_byte_size  # uncompressed
        if gathered >= _SPLIT_BYTES or group + 1 == metadata.num_row_groups:
            yield Split(path=path, kind=kind, row_groups=(first, group + 1))
            first, gathered = group + 1, 0


@contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """The Parquet file at `path`. Raises InputError where it is none or turns out damaged on the way."""
    try:
        with storage.open_read(path) as stream, pq.ParquetFile(stream) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        # Arrow reports damaged data as an OSError without a number; the system's own have one.
        reason = getattr(error, "strerror", None)
        if reason:
            raise InputError(f"cannot read {path}: {reason}") from error
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is no whole Parquet file ({detail}); copy or write it anew") from error
