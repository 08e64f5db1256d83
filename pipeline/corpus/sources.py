"""The corpus's files as an identity: which splits are the same ones as last time.

In: splits. Out: a description and names that depend on the files' content, not on where they lie.
What always holds: files renamed, moved or named in another order have the same identity; a file of other
size, or changed in its first or last mebibyte, has another. Content between is not looked at: reading a
corpus whole to learn that nothing is to be done would take as long as the disk does. (In compressed files
and Parquet, any change reaches the end.)

Example:
    describe(find_splits(["corpus/"]))  # {'files': 4, 'file_bytes': 13172736, 'sample': '5f0e…'}
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import xxhash

from pipeline import storage
from pipeline.corpus.splits import Split
from pipeline.errors import InputError
from pipeline.lineage import hash_json

_SAMPLE_BYTES = 1 << 20


def describe(splits: Sequence[Split]) -> dict[str, Any]:
    """The number of files, their bytes, and one hash of all their samples in no order."""
    paths = sorted({split.path for split in splits})
    total = sum(int(_sample(path), 16) for path in paths) % (1 << 128)
    return {
        "files": len(paths),
        "file_bytes": sum(storage.size(path) for path in paths),
        "sample": f"{total:032x}",
    }


def stems(splits: Sequence[Split]) -> Iterator[tuple[str, Split]]:
    """A name for each split's spill, the same while its file stays as it is; equal files are numbered.

    A file's time counts here, too: a file that is edited and one that is copied are tokenised anew.
    """
    files = {path: [_sample(path), _changed(path)] for path in {split.path for split in splits}}
    seen: Counter[str] = Counter()
    for split in splits:
        identity = hash_json([files[split.path], split.kind, split.row_groups])[:16]
        yield f"spill-{identity}-{seen[identity]}", split
        seen[identity] += 1


def _sample(path: str) -> str:
    size = storage.size(path)
    state = xxhash.xxh3_128(str(size).encode())
    try:
        with storage.open_read(path) as stream:
            state.update(stream.read(_SAMPLE_BYTES))
            stream.seek(max(stream.tell(), size - _SAMPLE_BYTES))
            state.update(stream.read(_SAMPLE_BYTES))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or str(error).splitlines()[0]}") from error
    return state.hexdigest()


def _changed(path: str) -> int:
    return 0 if storage.is_uri(path) else os.stat(path).st_mtime_ns


def refuse_overlap(corpus: Sequence[str], output: str) -> None:
    """Raise InputError where the output is a file, or lies in a corpus folder and would become part of it."""
    if os.path.isfile(output):
        raise InputError(f"{output} is a file; name a folder to write")
    inside = os.path.realpath(output)
    for spec in corpus:
        if not storage.is_uri(spec) and os.path.isdir(spec):
            folder = os.path.realpath(spec)
            if os.path.commonpath([folder, inside]) == folder:
                raise InputError(
                    f"the output {output} lies inside the corpus {spec} and would be read as text; name a "
                    "folder outside it"
                )
