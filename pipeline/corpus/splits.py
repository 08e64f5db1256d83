"""Where a corpus's text lies: what the user named → pieces that one process reads.

In: files, folders, globs and URIs as the user wrote them. Out: splits, sorted by path and by their places in it.
What always holds: the same files give the same splits in the same order, however often and in whatever
order they are named; the documents of a file's splits, one after the other, are the file's; a folder or glob that
holds no text is an error, not an empty corpus.

A large file is several splits, so that several processes can read it: Parquet by its row groups, others, where they
aren't compressed, by ranges of their bytes (`pieces`).

Example:
    find_splits(["corpus/", "more/*.txt.gz", "s3://bucket/wiki.parquet"])
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from pipeline import storage
from pipeline.corpus.compressed import ByteRange, bare_name, plain_bytes
from pipeline.corpus.formats import KNOWN, Format, Kind, recognise
from pipeline.corpus.globs import fixed_folder, matched_files
from pipeline.corpus.parquet_files import open_parquet
from pipeline.corpus.pieces import find_cuts, piece_bytes
from pipeline.corpus.threads import in_threads
from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Split:
    """A piece of the corpus that one process reads from start to end."""

    path: str
    kind: Kind

    bytes: int
    """Uncompressed; of a compressed file, about how many. Decides nothing but what is read in one task."""

    row_groups: tuple[int, int] | None = None
    """Parquet's row groups, first and one past the last; None for other files."""

    byte_range: ByteRange | None = None
    """The range of a large file's bytes; None where the file is read whole, and for Parquet."""

    source: str = field(default="", compare=False)
    """The file, folder, glob or URI that named it, as the user wrote it."""


def find_splits(
    specs: Sequence[str], format: Format = "auto", *, notice: Callable[[str], None] | None = None
) -> list[Split]:
    """The splits of every file that `specs` name, sorted by path, each file once.

    format: what all files are; `auto`: those of known kinds are found, each of its own
    notice: told of files in folders, or matched by globs, that are of no known kind and left out
    Raises InputError where a path does not exist, a folder or glob holds no known file, a named file is of an
    unknown kind, a Parquet file is none, or a file that is to be cut can't be read.
    """
    if not specs:
        raise InputError("no corpus given; name files, folders, globs or URIs")
    left_out: set[str] = set()
    found = _unique(specs, format, left_out)
    if left_out and notice is not None:
        first = min(left_out)
        many = f"{len(left_out):,} files" if len(left_out) > 1 else "a file"
        notice(f"left out: {many} of unknown kind, such as {first} (--format says what all files are)")
    sizes = in_threads(_file_bytes, [path for path, _, _ in found])
    files = [(path, kind, size) for (path, kind, _), size in zip(found, sizes, strict=True)]
    in_pieces = in_threads(partial(_splits_of, piece=piece_bytes(sum(sizes))), files)
    return [
        replace(split, source=spec)
        for (_, _, spec), splits in zip(found, in_pieces, strict=True)
        for split in splits
    ]


def _unique(specs: Iterable[str], format: Format, left_out: set[str]) -> list[tuple[str, Kind, str]]:
    found: dict[str, tuple[str, Kind, str]] = {}
    for spec in specs:
        paths, chosen = _paths(spec)
        kinds = in_threads(partial(recognise, format=format), paths)
        known = [(path, kind) for path, kind in zip(paths, kinds, strict=True) if kind is not None]
        if not known:
            if not chosen and bare_name(spec.lower()).endswith(".json"):
                raise InputError(f"{spec} does not hold a JSON object a line; jq -c '.[]' writes a list so")
            if not chosen:
                raise InputError(f"{spec}: unknown kind of file; known are {KNOWN} (--format names others)")
            what = "matches" if _has_wildcard(spec) and not storage.is_folder(spec) else "holds"
            raise InputError(f"{spec} {what} no corpus file; known are {KNOWN} (--format names others)")
        left_out.update(set(paths) - {path for path, _ in known})
        for path, kind in known:
            local = storage.local_path(path)
            place = path if local is None else os.path.realpath(local)
            # The least spelling wins, so that the order of the specs decides nothing.
            this = (path, kind, spec)
            found[place] = min(found.get(place, this), this)
    return sorted(found.values())


def reach(spec: str) -> str | None:
    """The folder in which the files of a folder or glob are looked for; None where `spec` is one file."""
    if _has_wildcard(spec) and (storage.is_uri(spec) or not storage.exists(spec)):
        return fixed_folder(spec) or "."
    return spec if storage.is_folder(spec) else None


def _has_wildcard(spec: str) -> bool:
    # They are no legal part of a URI, so there they always are one; "?" opens its options.
    return any(character in spec for character in ("*[" if storage.is_uri(spec) else "*?["))


def _paths(spec: str) -> tuple[list[str], bool]:
    """The files that `spec` stands for, and whether they were chosen by a folder or glob, not by name."""
    options = storage.options_apart(spec)[1]
    if options and "=" not in options:
        raise InputError(
            f"{spec}: behind the ? of a URI stand options, name=value; write * or [0-9] in a pattern, %3F for a "
            "question mark in a name"
        )
    try:
        pattern = _has_wildcard(spec)
        if not (pattern and storage.is_uri(spec)):
            if storage.is_folder(spec):
                return _within(spec), True
            if storage.exists(spec):
                _refuse_stream(spec)
                return [spec], False
        if not pattern:
            _refuse_broken_link(spec)
            raise InputError(f"{spec} does not exist; name files, folders, globs or URIs that do")
        matched = matched_files(spec)
    except OSError as error:
        raise InputError(f"cannot read {spec}: {error.strerror or str(error).splitlines()[0]}") from error
    if not matched:
        raise InputError(f"{spec} matches nothing; check the pattern (** crosses folders)")
    return _whole(matched), True


def _within(folder: str) -> list[str]:
    """The files under a folder; those whose own or whose folder's name starts with a dot are none."""
    return _whole(storage.list_files(folder, hidden=False))


def _whole(paths: list[str]) -> list[str]:
    for path in paths:
        _refuse_broken_link(path)
    return paths


def _refuse_broken_link(path: str) -> None:
    # Whatever its name says: it may have been a folder of the corpus.
    place = storage.local_path(path)
    if place is not None and os.path.islink(place) and not os.path.exists(place):
        raise InputError(f"{path} is a link to something that is gone; mend the link or remove it")


def _refuse_stream(path: str) -> None:
    """Raise InputError where `path` is a pipe or a device, which gives its bytes once, or never ends."""
    if not storage.is_file(path):
        raise InputError(
            f"{path} is a pipe or a device, and a corpus is read more than once; write it to a file first"
        )


def _file_bytes(path: str) -> int:
    try:
        return storage.size(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or str(error).splitlines()[0]}") from error


def _splits_of(file: tuple[str, Kind, int], piece: int) -> list[Split]:
    path, kind, size = file
    if kind == "parquet":
        return list(_row_groups(path, piece))
    if not (cuts := find_cuts(path, kind, size, piece)):
        return [Split(path=path, kind=kind, bytes=plain_bytes(path, size))]
    return [
        Split(path=path, kind=kind, bytes=last - first, byte_range=(first, last))
        for first, last in pairwise([0, *cuts, size])
    ]


def _row_groups(path: str, piece: int) -> Iterator[Split]:
    with open_parquet(path) as file:
        metadata = file.metadata
    first, gathered = 0, 0
    for group in range(metadata.num_row_groups):
        gathered += metadata.row_group(group).total_byte_size  # uncompressed
        if gathered >= piece or group + 1 == metadata.num_row_groups:
            yield Split(path=path, kind="parquet", bytes=gathered, row_groups=(first, group + 1))
            first, gathered = group + 1, 0
