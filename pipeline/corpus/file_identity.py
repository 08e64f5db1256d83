"""The corpus's files as an identity: which of them are the same ones as last time.

In: splits, and bundles of them. Out: a description and names that depend on the files' content, not on where they
lie.
What always holds: files renamed, moved or named in another order have the same identity; a file of other
size, or changed in one of the mebibytes that are looked at (the first, the middle, the last, and one in 64),
has another. The rest is not looked at: reading a corpus whole to learn that nothing is to be done would take
as long as the disk does. (In compressed files and Parquet, any change reaches the end.)

Example:
    found = look_at(find_splits(["corpus/"]))
    describe(found)  # {'files': 4, 'file_bytes': 13172736, 'kinds': {'text': 4}, 'sample': '5f0e…'}
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from pipeline import storage
from pipeline.corpus.bundles import Bundle
from pipeline.corpus.formats import Kind
from pipeline.corpus.splits import Split, reach
from pipeline.corpus.threads import in_threads
from pipeline.errors import InputError
from pipeline.lineage import hash_json

_SAMPLE_BYTES = 1 << 20
_STRIDE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """One file of the corpus: its size, a hash of that and of its samples, and when it changed (ns; URIs: 0)."""

    kind: Kind
    bytes: int
    sample: str
    changed: int


def look_at(splits: Sequence[Split]) -> dict[str, CorpusFile]:
    """What the files of `splits` are, by path; each is sampled once, several at a time.

    Raises InputError where one can't be read, for the first by path.
    """
    kinds = {split.path: split.kind for split in splits}
    paths = sorted(kinds)
    return dict(zip(paths, in_threads(lambda path: _looked_at(path, kinds[path]), paths), strict=True))


def describe(files: Mapping[Any, CorpusFile]) -> dict[str, Any]:
    """The number of files, their bytes, what they were read as, and one hash of all their samples in no order."""
    total = sum(int(file.sample, 16) for file in files.values()) % (1 << 128)
    return {
        "files": len(files),
        "file_bytes": sum(file.bytes for file in files.values()),
        "kinds": dict(sorted(Counter(file.kind for file in files.values()).items())),
        "sample": f"{total:032x}",
    }


def bundle_identity(bundle: Bundle, files: Mapping[str, CorpusFile], owner: Any = None) -> str:
    """A short hash of what a bundle holds, the same while its files stay as they are.

    owner: a plain value that tells equal bundles apart; None: nothing does
    A file's time counts here, too: a file that is edited and one that is copied are tokenised anew, with those of
    its bundle (and of the next ones, where its size is such that they are bundled otherwise now).
    """
    held = [_identity(split, files[split.path]) for split in bundle]
    return hash_json(held if owner is None else [owner, held])[:16]


def _identity(split: Split, file: CorpusFile) -> list[Any]:
    return [file.sample, file.changed, split.kind, split.row_groups, split.byte_range]


def _looked_at(path: str, kind: Kind) -> CorpusFile:
    try:
        size = storage.size(path)
        state = xxhash.xxh3_128(str(size).encode())
        with storage.open_read(path) as stream:
            for start in _sampled(size):
                stream.seek(start)
                state.update(stream.read(_SAMPLE_BYTES))
        changed = 0 if storage.is_uri(path) else os.stat(path).st_mtime_ns
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or str(error).splitlines()[0]}") from error
    return CorpusFile(kind=kind, bytes=size, sample=state.hexdigest(), changed=changed)


def _sampled(size: int) -> list[int]:
    """Where the samples of a file of so many bytes begin."""
    last = max(0, size - _SAMPLE_BYTES)
    return sorted({*range(0, last + 1, _STRIDE_BYTES), last // 2, last})


def refuse_overlap(corpus: Sequence[str], output: str) -> None:
    """Raise InputError where the output is a file, or lies where the corpus's files are looked for.

    What is written there (`vocab.txt` is enough) would be read as text the next time.
    """
    if not storage.is_uri(output) and os.path.isfile(output):
        raise InputError(f"{output} is a file; name a folder to write")
    inside = _place(output)
    for spec in corpus:
        if (folder := reach(spec)) is not None:
            outer = _place(folder)
            if inside == outer or inside.startswith(f"{outer}/"):
                raise InputError(
                    f"the output {output} lies inside the corpus {spec} and would be read as text; name a "
                    f"folder outside {folder}"
                )


def _place(folder: str) -> str:
    """A folder under one name, however it is spelled, without a slash at the end."""
    local = storage.local_path(folder)
    return (storage.options_apart(folder)[0] if local is None else os.path.realpath(local)).rstrip("/")
