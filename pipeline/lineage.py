"""What an artefact was made from: hashes, and the versions of the libraries that made it.

In: bytes or plain values. Out: hexadecimal xxh3-128 hashes, equal for equal content everywhere.

Example:
    >>> hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1})
    True
"""

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import xxhash

import pipeline

# Those whose release can change an artefact's bytes.
_LIBRARIES = ("numpy", "pyarrow", "sentencex", "tokenizers", "webdataset")


def hash_bytes(data: bytes | memoryview) -> str:
    """The hexadecimal xxh3-128 of `data`."""
    return xxhash.xxh3_128_hexdigest(data)


def hash_pieces(pieces: Iterable[bytes]) -> str:
    """The hash of what `pieces` come to, joined."""
    state = xxhash.xxh3_128()
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()


def hash_json(value: Any) -> str:
    """The hash of a plain value, independent of the order of its keys."""
    return hash_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def library_versions(*more: str) -> dict[str, str]:
    """The installed versions of the libraries that decide an artefact's bytes, and of `more`."""
    found = {"bertpipe": pipeline.__version__}
    for name in (*_LIBRARIES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What differs between two mappings, one `key: ours, theirs` a line, nested keys dotted."""
    lines: list[str] = []
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(name), theirs.get(name)
        if isinstance(mine, dict) and isinstance(other, dict):
            lines += [f"{name}.{line}" for line in difference(mine, other)]
        elif mine != other:
            lines.append(f"{name}: {mine!r} here, {other!r} there")
    return lines
