"""The manifest of a shard folder: what it holds, and what it was made from.

In: a shard folder. Out: `Manifest`, whose tars are a lazy table. On disk: `manifest.json` says everything but the
tars, and names `index.arrow`, which lists those (`index`), with its size and hash.
What always holds: the index is written first, so a folder with a manifest is whole; an index that is missing,
cut short or another is refused, its hash being looked at once by each process that reads the manifest; folders
of format 1, whose manifest lists the tars itself, are read as well.

Example:
    manifest = read_manifest("SHARDS")
    manifest.pairs("train"), manifest.of_split("train")[0].name
"""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from typing import Any

from pipeline import storage
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import ShardInfo, Split
from pipeline.errors import InputError
from pipeline.lineage import hash_bytes, hash_pieces
from pipeline.shared_bytes import SharedBytes

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
INDEX = "index.arrow"

_ANEW = "run `bertpipe shard` again into an empty folder"
_REMEDY = f"restore it from its source, or {_ANEW}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a shard folder holds and what it was made from."""

    settings: dict[str, Any]
    vocabulary: dict[str, Any]
    corpus: dict[str, Any]
    counts: dict[str, Any]
    versions: dict[str, str]
    shards: ShardTable
    format_version: int = FORMAT_VERSION
    documents: dict[str, Any] | None = None
    """The file that lists the documents (`document_list`); None in folders of earlier versions."""
    parts: list[dict[str, Any]] | None = None
    """Where shards were added: settings, corpus, counts and versions of what was first made, and of each addition."""

    def of_split(self, split: Split) -> ShardTable:
        """The tars of one side, in order."""
        return self.shards.of_split(split)

    def pairs(self, split: Split) -> int:
        """How many pairs one side holds."""
        return self.of_split(split).total("pairs")

    @property
    def max_seq_length(self) -> int:
        """Tokens of the longest pair these shards may hold, its three special tokens included."""
        return int(self.settings["max_seq_length"])

    @cached_property
    def hash(self) -> str:
        """The identity of the pairs: equal for equal tars, wherever they lie and however they are listed."""
        # As format 1 has it, so that what was trained on such a folder knows it again: the hash of the JSON
        # `["VOCABULARY",[["NAME","HASH"],…]]`.
        vocabulary = json.dumps(self.vocabulary["hash"], ensure_ascii=False).encode()
        return hash_pieces(chain((b"[", vocabulary, b","), self.shards.names_and_hashes(), (b"]",)))

    def stated(self) -> dict[str, Any]:
        """Everything but the tars, as far as it is there."""
        named = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "shards"}
        return {name: value for name, value in named.items() if value is not None}


def read_manifest(folder: str) -> Manifest:
    """The manifest of a shard folder.

    Raises InputError where the folder is none, is unfinished or damaged, or was written by a newer bertpipe.
    """
    path = storage.join(folder, MANIFEST)
    if not storage.exists(folder):
        raise InputError(f"{folder} does not exist; make shards with: bertpipe shard CORPUS… -o {folder}")
    if not storage.exists(path):
        raise InputError(f"{folder} holds no {MANIFEST}; finish it by running its `bertpipe shard` again")
    value = storage.read_json(path)
    version = value.get("format_version") if isinstance(value, dict) else None
    if not isinstance(version, int):
        raise InputError(f"{path} is no manifest of bertpipe: it has no format_version")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} has format {version}, this bertpipe reads up to {FORMAT_VERSION}; upgrade it"
        )
    try:
        index, shards = value.pop("index", None), value.pop("shards")
        table = _listed(shards) if version == 1 else _indexed(folder, index, shards)
        return Manifest(**value, shards=table)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is damaged ({error}); {_ANEW}") from error


def index_file(folder: str) -> str:
    """The file that lists a folder's tars, as its manifest names it."""
    return str(storage.read_json(storage.join(folder, MANIFEST)).get("index", {}).get("file", INDEX))


def _listed(shards: list[dict[str, Any]]) -> ShardTable:
    """The table of a manifest of format 1, which lists the tars itself."""
    return ShardTable.of([ShardInfo(**shard) for shard in shards])


def _indexed(folder: str, index: dict[str, Any], shards: int) -> ShardTable:
    path = storage.join(folder, index["file"])
    try:
        source = SharedBytes.of_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing, its manifest names it; {_REMEDY}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; {_REMEDY}") from error
    if (size := source.buffer.size) != index["bytes"]:
        raise InputError(f"{path} has {size} bytes, its manifest says {index['bytes']}; {_REMEDY}")
    if (found := hash_bytes(memoryview(source.buffer))) != index["hash"]:
        raise InputError(f"{path} has the hash {found}, its manifest says {index['hash']}; {_REMEDY}")
    try:
        table = ShardTable(source)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no index of bertpipe ({error}); {_REMEDY}") from error
    if len(table) != shards:
        raise InputError(f"{path} lists {len(table)} shards, its manifest says {shards}; {_REMEDY}")
    return table


def write_manifest(folder: str, manifest: Manifest, *, index: str = INDEX) -> None:
    """Write the index and then `manifest.json`, the mark that the folder is whole.

    index: the index's file; one of its own, where the folder has a manifest that names another
    """
    data = manifest.shards.encoded()
    storage.write_whole(storage.join(folder, index), lambda stream: _write(stream, data))
    stated = manifest.stated() | {
        "format_version": FORMAT_VERSION,
        "index": {"file": index, "bytes": data.size, "hash": hash_bytes(memoryview(data))},
        "shards": len(manifest.shards),
    }
    storage.write_json(storage.join(folder, MANIFEST), stated)


def _write(stream: Any, data: Any) -> None:
    stream.write(data)
